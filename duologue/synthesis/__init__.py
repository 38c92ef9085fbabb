"""Training data for wren: dialogues written by grammars and spoken by open speech synthesizers.

    from duologue.synthesis.mixer import render_script
    from duologue.synthesis.speaker import Speaker
    from duologue.synthesis.writer.dialogues import write_dialogue

    script = write_dialogue(seed=1, index=0, split="train")      # who says what
    item = render_script(script, Speaker())                      # samples [2, T], side-car

Each stage depends on its key alone: the same seed, index and split give the same words and the same
sound in any process. In reading order:

    world.py       the fact book (countries, elements) as entities and sentences
    splits.py      what training never sees: entities, facts, names, phrasings, voices
    writer/        from a seed to a script; script.py says what a script is
    engines/       flite, festival, espeak-ng, run as programs; align.py for the one without times;
                   foreign.py: speakers of other languages
    voices.py      wren's voice and the cast of users
    speaker.py     text and voice to samples, words, phones; utterance.py cuts and joins them
    timeline.py    a script on a clock: replies, lookups, barge-ins, backchannels
    room.py        gain, rooms, noise, lines, echo of wren's own voice
    mixer.py       two channels and a side-car; corpus.py: one voice at a time
    generate.py    hours of it, resumable, on all cores; command.py: the command line

Debian packages: flite espeak-ng festival festvox-us-slt-hts festvox-kallpc16k festvox-kdlpc16k;
to train, those of `engines/foreign.py` too.
"""
