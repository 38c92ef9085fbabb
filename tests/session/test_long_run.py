"""A long conversation in short: nothing grows, and the ring never ends.

`benchmarks/soak.py` does the same for hours.
"""

from __future__ import annotations

import json

from support.conversations import frames_of, speech
from support.stage import Stage

from duologue.dialogue import AudioFrame, Interrupt, RetrievalStarted

AUDIO = frames_of(speech(30))


def test_nothing_grows_with_the_length_of_a_conversation() -> None:
    stage = Stage(1)
    seat = stage.open(seed=13)
    sizes: list[tuple[int, int]] = []
    frames = triggers = 0
    for frame in range(150):
        if frame % 40 == 39:
            stage.conductor.receive(seat, Interrupt())
        stage.talk({seat: AUDIO[frame % len(AUDIO)]})
        events = stage.events(seat)
        frames += sum(isinstance(event, AudioFrame) for event in events)
        triggers += sum(isinstance(event, RetrievalStarted) for event in events)
        if frame % 50 == 49:
            _, tensors = seat.core.save()
            slot = sum(t.nbytes for name, t in tensors.items() if name.startswith("slot."))
            sizes.append((slot, len(seat.core._parts)))
    assert frames == 150, "the ring holds 20 positions, the conversation goes on"
    assert triggers >= 5, "what is measured has lookups in it"
    assert sizes[0][0] == sizes[1][0] == sizes[2][0]
    assert max(parts for _, parts in sizes) <= 1
    assert len(seat.pending) <= 3
    assert len(stage.due[seat]) <= 3
    assert len(json.dumps(seat.core.brain.snapshot())) < 60_000
