"""What was looked up is read out piece by piece by models that quote."""

from __future__ import annotations

from typing import Any

import pytest
from support.conversations import TRIGGER, frames_of, model, quoting_model, speech
from support.stage import Stage

from duologue.dialogue import ReferenceInjected
from duologue.session.snapshot import SessionSnapshot

AUDIO = frames_of(speech(80))
Step = tuple[int | None, int]
"""What was favoured, by 5 at least, and what was said; untrained logits differ by less."""


def watched(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """What slot 0 favoured in each frame from now on, and what it said."""
    steps: list[Step] = []
    advance = stage.bank.step

    def step(frames: Any, steers: Any = None) -> Any:
        made = advance(frames, steers)
        if 0 in made:
            steer = steers[0]
            favoured = steer.favoured if steer.favour else None
            steps.append((favoured, made[0].sampled_text))
        return made

    monkeypatch.setattr(stage.bank, "step", step)
    return steps


def spoken(steps: list[Step]) -> list[Step]:
    return [(favoured, token) for favoured, token in steps if token > TRIGGER]


def test_it_goes_on_with_what_was_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(2, on=quoting_model())
    steps = watched(stage, monkeypatch)
    seat, other = stage.open(0, seed=3), stage.open(1, seed=4)
    for frame in AUDIO:
        stage.talk({seat: frame, other: frame})
    assert any(isinstance(event, ReferenceInjected) for event in stage.events(seat))
    followed = [(favoured, token) for favoured, token in spoken(steps) if favoured is not None]
    assert len(followed) > 5
    assert all(favoured == token for favoured, token in followed)
    free = {token for favoured, token in spoken(steps) if favoured is None}
    assert free - {token for _, token in followed}, "what else it says is its own"


def test_a_model_that_does_not_quote_favours_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(1, on=model())
    steps = watched(stage, monkeypatch)
    seat = stage.open(0, seed=3)
    for frame in AUDIO:
        stage.talk({seat: frame})
    assert any(isinstance(event, ReferenceInjected) for event in stage.events(seat))
    assert {favoured for favoured, _ in steps} == {None}


@pytest.mark.parametrize("at", [16, 30])
def test_a_restored_session_quotes_on(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, again = Stage(1, on=quoting_model()), Stage(1, on=quoting_model())
    seat = stage.open(0, seed=3)
    for frame in AUDIO[:at]:
        stage.talk({seat: frame})
    stage.events(seat)
    saved = SessionSnapshot.from_bytes(stage.seating.snapshot(seat, "token").to_bytes())
    restored = again.reopen(saved, 0)
    one, two = watched(stage, monkeypatch), watched(again, monkeypatch)
    for frame in AUDIO[at : at + 40]:
        stage.talk({seat: frame})
        again.talk({restored: frame})
    assert one == two
    assert any(favoured is not None for favoured, _ in one)
