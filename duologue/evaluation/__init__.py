"""Judging what was trained: wren's quality table, reproduced by `duologue evaluate wren`.

An evaluation holds conversations with a system, on questions, voices and entities that training
never had, and lets an independent recogniser read what the system said. In reading order:

    cases.py          what is asked: the evaluation set as scripts
    scene.py          a script as sound: the user's microphone
    knowledge.py      what may be looked up
    talker.py         the port to a system under test
    systems.py        our models behind it; simulated.py: systems whose score is known
    world.py          what may be said, and what answers there are
    lexicon.py, language.py, grammar.py, recogniser.py, ears.py   the independent recogniser
    activity.py, words.py   when somebody speaks; words compared with words
    judge.py          one conversation to one verdict
    conversations.py  all of them, resumable; ledger.py keeps results
    finding.py, coding.py, hearing.py, speed.py   retrieval, codec, recognition, frame times alone
    statistics.py, table.py   figures with intervals and bars
    report.py, page.py, timeline.py, plot.py   JSON, HTML, pictures
    command.py        the command line
"""
