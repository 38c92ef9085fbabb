"""The turn manager: cuts two text streams that never stop into alternating turns.

The default rules are the published ones (MoshiRAG reference, turn manager): the last four values
of the recogniser's pause estimate decide who has the floor; text of the other side is kept back
and comes out when the floor passes. The user takes the floor at once, the model after a wait in
which recognition finishes the user's words.

Options repair what the published rules leave open: a pending switch that the evidence has turned
against (`cancel_on_reversal`), a wait that runs faster while words arrive (`countdown`), and a
silence in which the recogniser expects somebody to speak soon (`speaking_share`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from duologue.dialogue.checks import IllegalMove, check_fraction, check_int, check_type
from duologue.dialogue.events import Role, TextToken, TurnStarted

MAX_PIECE_CHARACTERS = 256
"""A longer piece of text is cut."""

TurnEvent: TypeAlias = TurnStarted | TextToken


class Countdown(Enum):
    """What makes the wait before the model's turn run.

    `CALLS`: every word and every frame of model text (published Python). `VAD_UPDATES`: every
    pause estimate (published Rust). `FRAMES`: the frame clock.
    """

    CALLS = "calls"
    VAD_UPDATES = "vad_updates"
    FRAMES = "frames"


@dataclass(frozen=True)
class TurnRules:
    """When the floor passes.

    The user is taken to be silent when all of the last `vad_window` inactivity values exceed
    `vad_threshold`, and speaking when their mean is below it. The user can not take the floor
    before `warmup_updates` values have come. `stt_wait_steps` is the model's wait. Each side's
    kept-back text holds `max_held_pieces` pieces; beyond that the oldest are lost and counted.

    The estimate looks ahead (nothing is said for two seconds), so in a long silence it can settle
    below the threshold although nobody speaks. As long as no words of the user are kept back, the
    mean must therefore be below `speaking_share` of the threshold.
    """

    vad_window: int = 4
    vad_threshold: float = 0.5
    speaking_share: float = 1.0
    warmup_updates: int = 20
    stt_wait_steps: int = 12
    cancel_on_reversal: bool = False
    countdown: Countdown = Countdown.CALLS
    max_held_pieces: int = 2048

    def __post_init__(self) -> None:
        check_int(self, "vad_window", 1, 256)
        check_fraction(self, "vad_threshold")
        check_fraction(self, "speaking_share")
        check_int(self, "warmup_updates", 0, 10_000)
        check_int(self, "stt_wait_steps", 0, 1_000)
        check_type(self, "cancel_on_reversal", bool)
        check_type(self, "countdown", Countdown)
        check_int(self, "max_held_pieces", 1, 65_536)

    @classmethod
    def published(cls, stt_wait_steps: int = 12) -> TurnRules:
        """The rules of the MoshiRAG reference in Python; it waits 12 steps live, 6 offline."""
        return cls(stt_wait_steps=stt_wait_steps)

    @classmethod
    def improved(cls) -> TurnRules:
        """Frame clock, switches taken back on reversal, a wait just over the usual STT delay, no
        floor for a user who is only expected to speak, and at once for one who speaks at once."""
        return cls(
            warmup_updates=0,
            stt_wait_steps=7,
            cancel_on_reversal=True,
            countdown=Countdown.FRAMES,
            speaking_share=0.5,
        )


@dataclass(frozen=True)
class Said:
    """A piece of text kept back until its speaker has the floor."""

    text: str
    frame: int


@dataclass
class TurnState:
    """All that a turn manager remembers; `pending` is the side about to get the floor."""

    active: Role
    pending: Role | None = None
    wait: int = 0
    vad_history: list[float] = field(default_factory=list)
    vad_updates: int = 0
    model_held: list[Said] = field(default_factory=list)
    user_held: list[Said] = field(default_factory=list)
    turns_started: int = 0
    dropped: int = 0


class TurnManager:
    """Who has the floor; `update_vad`, then `hear` and `speak`, once per frame and side."""

    def __init__(
        self, rules: TurnRules, initial_speaker: Role, state: TurnState | None = None
    ) -> None:
        self.rules = rules
        self.initial_speaker = initial_speaker
        self.state = state or TurnState(active=initial_speaker)

    @property
    def active_speaker(self) -> Role:
        """The side that has the floor."""
        return self.state.active

    @property
    def late_words(self) -> str:
        """What the user has said without having the floor."""
        return "".join(said.text for said in self.state.user_held)

    @property
    def dropped(self) -> int:
        """Pieces lost because too many were kept back."""
        return self.state.dropped

    def reset(self) -> None:
        """Forget everything: the initial speaker has the floor again."""
        self.state = TurnState(active=self.initial_speaker)

    def update_vad(self, inactivity: float) -> None:
        """Take one pause estimate: the probability that the user is not speaking."""
        state = self.state
        state.vad_updates += 1
        state.vad_history.append(inactivity)
        del state.vad_history[: -self.rules.vad_window]
        if self.rules.countdown is Countdown.VAD_UPDATES:
            self._count_down()

    def hear(self, text: str, frame: int) -> list[TurnEvent]:
        """Take one recognised piece of the user's speech."""
        return list(self._handle(Role.USER, text, frame))

    def speak(self, text: str | None, frame: int) -> list[TurnEvent]:
        """Take one frame of the model's text stream; None or empty is silence."""
        return list(self._handle(Role.MODEL, text, frame))

    def end_frame(self) -> None:
        """Let the frame clock run; it matters to `Countdown.FRAMES` only."""
        if self.rules.countdown is Countdown.FRAMES:
            self._count_down()

    def _handle(self, role: Role, text: str | None, frame: int) -> Iterator[TurnEvent]:
        state = self.state
        if not state.turns_started:
            yield self._start_turn(frame)
        switch_to = self._decide()
        if switch_to is not None:
            self._switch(switch_to)
            yield self._start_turn(frame)
        held = self._held(state.active)
        for said in held:
            yield TextToken(frame, state.active, said.text, said.frame)
        held.clear()
        if not text:
            return
        text = text[:MAX_PIECE_CHARACTERS]
        if role is state.active:
            yield TextToken(frame, role, text, frame)
        else:
            self._hold(role, Said(text, frame))

    def _decide(self) -> Role | None:
        """Apply the switching rules once; return the new speaker when the floor passes now."""
        state, rules = self.state, self.rules
        history = state.vad_history
        if len(history) < rules.vad_window:
            return None
        user_silent = all(value > rules.vad_threshold for value in history)
        share = 1.0 if state.user_held else rules.speaking_share
        user_speaking = sum(history) / len(history) < share * rules.vad_threshold
        if state.active is Role.MODEL:
            if user_speaking and state.vad_updates >= rules.warmup_updates:
                state.pending, state.wait = Role.USER, 0
        elif user_silent and state.model_held:
            if state.pending is not Role.MODEL:
                state.pending, state.wait = Role.MODEL, rules.stt_wait_steps
        elif user_speaking and rules.cancel_on_reversal:
            state.pending = None
        if state.pending is None:
            return None
        if state.wait == 0:
            return state.pending
        if rules.countdown is Countdown.CALLS:
            self._count_down()
        return None

    def _count_down(self) -> None:
        if self.state.pending is not None and self.state.wait > 0:
            self.state.wait -= 1

    def _switch(self, to: Role) -> None:
        if to is self.state.active:
            raise IllegalMove(f"the {to.value} already has the floor")
        self.state.active, self.state.pending = to, None

    def _start_turn(self, frame: int) -> TurnStarted:
        index = self.state.turns_started
        self.state.turns_started += 1
        return TurnStarted(frame, self.state.active, index)

    def _held(self, role: Role) -> list[Said]:
        return self.state.user_held if role is Role.USER else self.state.model_held

    def _hold(self, role: Role, said: Said) -> None:
        held = self._held(role)
        held.append(said)
        extra = len(held) - self.rules.max_held_pieces
        if extra > 0:
            del held[:extra]
            self.state.dropped += extra
