"""Conversations over recordings: `duologue talk`, in model time.

    files.py       which recordings, their side-cars, what is written where, what is done already
    settings.py    how the conversations go, published rules or ours
    equipment.py   what they need, opened once: model, slots, retriever, encoder, recogniser
    ahead.py       recognition by a service, done before the conversation
    stopping.py    when a conversation is over
    log.py         what is noted of a conversation, frame by frame
    outside.py     what it asks of the outside world, and how long that counts
    run.py         many conversations over the slots
    trace.py       a log in the published schema, with more keys; lookups.py: its retrievals
    activity.py    who is heard when: overlaps and barge-ins
    timeline.py    a trace as a picture; score.py: one line of it; style.py: colours and fonts

The model waits for the world: a conversation stands still while something is looked up for it, and
the time that took is then counted in frames. So what is said does not depend on how fast the model
runs (MoshiRAG reference, offline inference).
"""
