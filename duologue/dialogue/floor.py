"""The floor policy: when the model may speak, when it must fall silent, when it should begin.

A duplex model decides this itself, in each frame, by what it draws. Where it is not to be relied
on (a small one is not), a conversation with `FloorRules` decides frame by frame, and the engine
sees to it: padding is forced, or the model's voice with it, or padding is discouraged.

- *hold*: no onset. While the user speaks, in pauses that do not sound like an end, and as long as
  nobody has said anything to the model.
- *yield*: the user talks over the model. It falls silent at once, and what it had still to say is
  dropped.
- *nudge*: the model is to say something, being the one to begin or having been spoken to, and has
  not. Padding is discouraged more and more.
- *free*: the model does as it likes. Always when it is in the middle of a turn, a lookup's time
  included, and nobody talks over it.

How long a pause of the user's must be until it is taken for an end depends on what has been said
(`endings`) and on how long it took to say it: people pause early in a question. Where nothing is
known of the words, a wait in between is kept. Everything is bounded: whoever has said something and
then stays silent is free to be answered after the longest wait, a yield ends at its limit, and the
model is no longer urged on at its own.

Backchannels of the model's are held with everything else: which token would be a murmur and which
the first of a sentence is not known before it is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, Self

from duologue.dialogue.checks import ConfigError, check_int, check_number
from duologue.dialogue.endings import (
    MAX_CHARACTERS,
    Ending,
    asks_at_the_end,
    ending_of,
    is_small_talk,
)
from duologue.dialogue.voicing import VoicingRules, VoicingState

MOST_FRAMES = 1_000
"""Counters stop here."""


class Move(Enum):
    """What the model is to do in a frame; see the module."""

    FREE = "free"
    HOLD = "hold"
    YIELD = "yield"
    NUDGE = "nudge"


@dataclass(frozen=True)
class FloorOrder:
    """What holds for the model's next frame."""

    move: Move = Move.FREE
    urge: float = 0.0
    """Taken off padding's logit."""
    asks: bool = True
    """Whether the model may ask for a lookup."""
    looks_ahead: bool = False
    """Recognition should say what it makes of all audio up to this frame (`UserFrame.ahead`)."""


FREE, HOLD = FloorOrder(), FloorOrder(Move.HOLD)


@dataclass(frozen=True)
class FloorRules:
    """How the floor is kept. Times are frames of 80 ms.

    Waits are counted from the user's last frame of voice; the model begins a frame or two later.
    """

    voicing: VoicingRules = field(default_factory=VoicingRules)
    pause_frames: int = 2
    """So much silence is a pause: recognition is asked what was said."""
    question_frames: int = 3
    """Wait after a complete question that was said in one go,"""
    short_question_frames: int = 14
    """after other ones,"""
    least_question_frames: int = 16
    """in one go: at least so much voice, or, where it stays up at the end (a "?" of the
    recogniser's),"""
    rising_frames: int = 37
    """so much..."""
    fluent_frames: int = 20
    """...or so much without a gap;"""
    statement_frames: int = 14
    """after what is complete and asks nothing,"""
    unfinished_frames: int = 24
    """after the rest,"""
    unknown_frames: int = 10
    """and where recognition does not say."""
    hesitation_frames: int = 6
    """Nobody ends with a sound of this length behind a gap: it is an "um", or the first word of
    something more."""
    least_frames: int = 3
    """Voice that is less than that is nobody's turn."""
    answer_frames: int = 75
    """The user has been answered by then, or is not."""
    turn_frames: int = 15
    """A turn of the model's goes on through pauses of less."""
    reply_frames: int = 30
    """Likewise after a lookup has ended."""
    yield_frames: int = 25
    """Longest that the voice is silenced; it is held after that."""
    new_words_frames: int = 38
    """After a silence of that length what the user says is another utterance."""
    begin_frames: int = 4
    """A model that is to begin is left so much time for it before it is urged on,"""
    answer_question_frames: int = 9
    """one that has been asked so much from the user's last voice on,"""
    answer_rest_frames: int = 20
    """likewise after all that is no complete question said in one go."""
    thanks_frames: int = 24
    """Less voice that asks nothing is no cause for a lookup,"""
    story_frames: int = 40
    """nor is so much that does not ask in the end."""
    urge_frames: int = 40
    """It is urged on for so long."""
    begin_step: float = 1.5
    """Growth of the urge with each frame, for who is to begin..."""
    answer_step: float = 1.5
    """...and for who is to answer."""
    urge_limit: float = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.voicing, VoicingRules):
            raise ConfigError("FloorRules.voicing must be a VoicingRules")
        for one in fields(self):
            if one.name.endswith("_frames"):
                check_int(self, one.name, 1, MOST_FRAMES // 2)
        for name in ("begin_step", "answer_step", "urge_limit"):
            check_number(self, name, 0.0, 1_000.0)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Rules as a model's `config.json` has them: any fields, those of `voicing` nested.

        Raises:
            ConfigError: names what does not fit.
        """
        given = _known(cls, values, "floor")
        if "voicing" in given:
            voicing = _known(VoicingRules, given["voicing"], "floor.voicing")
            given["voicing"] = VoicingRules(**voicing)
        return cls(**given)

    @property
    def longest_wait(self) -> int:
        """No pause is waited through for longer."""
        return max(
            self.question_frames, self.short_question_frames, self.statement_frames,
            self.unfinished_frames, self.unknown_frames,
        )  # fmt: skip


@dataclass(frozen=True)
class FloorSight:
    """What a frame brought, for `Floor.note`."""

    words: str = ""
    """The user's, as recognised in this frame."""
    words_late: int = 0
    """Frames by which they are behind the audio."""
    caught_up: bool = False
    """Whether all words up to the user's last voice are out."""
    ahead: str | None = None
    """Words that recognition would give if nothing followed, beyond those it has given."""
    hears: bool = False
    """Whether there is recognition."""
    speaks: bool = False
    """Whether the model's frame has text, or asks for a lookup."""
    busy: bool = False
    """Whether something is being looked up for the model, or told to it."""
    level_db: float | None = None
    """Of the model's frame."""


@dataclass
class FloorState:
    """All that a floor remembers. Counters are of frames."""

    begins: bool
    """The model is to begin and has not."""
    voicing: VoicingState = field(default_factory=VoicingState)
    age: int = 0
    voiced: int = 0
    """Of the user's utterance, with voice."""
    stretch: int = 0
    """Of its last stretch without a gap."""
    gaps: bool = False
    """Whether it has more than one stretch."""
    begun: int = 0
    """Since the utterance began."""
    words: str = ""
    """Of the utterance."""
    ahead: str | None = None
    """The same with those that a look ahead found, until they are out or more is said."""
    caught_up: bool = False
    hears: bool = False
    turn_left: int = 0
    """How long the model's turn still goes on."""
    asked: bool = False
    """Whether what it answers may be cause for a lookup."""
    yielding: int = 0
    """How long it has been silenced, 0 if it is not."""


class Floor:
    """One conversation's floor: `listen` and `note` once for each frame, in this order."""

    def __init__(self, rules: FloorRules, begins: bool, state: FloorState | None = None) -> None:
        self.rules, self._begins = rules, begins
        self.state = state or FloorState(begins)

    @property
    def yields(self) -> bool:
        """Whether the model has been silenced and still is."""
        return self.state.yielding > 0

    def reset(self) -> None:
        """Begin anew."""
        self.state = FloorState(self._begins)

    def order(self, level_db: float | None) -> FloorOrder:
        """What `listen` would say of a frame; changes nothing."""
        state = replace(self.state, voicing=self.state.voicing.copy())
        return Floor(self.rules, self._begins, state).listen(level_db)

    def listen(self, level_db: float | None) -> FloorOrder:
        """Take the level of the user's frame: what the model is to do in the same one."""
        state, rules, voicing = self.state, self.rules, self.state.voicing
        pause = voicing.silent
        state.age = min(state.age + 1, MOST_FRAMES)
        state.begun = min(state.begun + 1, MOST_FRAMES)
        voicing.listen(rules.voicing, float("-inf") if level_db is None else level_db)
        voicing.silent = min(voicing.silent, MOST_FRAMES)
        if voicing.sounds:
            if pause >= (rules.turn_frames if state.turn_left else rules.new_words_frames):
                self._forget_utterance()
            if not state.voiced:
                state.begun = 0
            elif pause >= rules.pause_frames:
                state.stretch, state.gaps = 0, True
            state.voiced = min(state.voiced + 1, MOST_FRAMES)
            state.stretch = min(state.stretch + 1, MOST_FRAMES)
            state.ahead = None
        self._judge_interruption()
        return self._decide()

    def note(self, sight: FloorSight) -> None:
        """Take what else the frame brought."""
        state, rules = self.state, self.rules
        state.voicing.hear_model(sight.level_db)
        state.hears = state.hears or sight.hears
        state.caught_up = sight.caught_up
        if sight.words and state.begun + 2 >= sight.words_late:
            state.words = (state.words + sight.words)[-MAX_CHARACTERS:]
        if sight.ahead is not None and not state.voicing.sounds:
            state.ahead = (state.words + sight.ahead)[-MAX_CHARACTERS:]
        went_on = state.turn_left > 0
        state.turn_left = max(state.turn_left - 1, 0)
        if state.yielding:
            return
        if sight.speaks:
            if not went_on:
                state.asked = bool(state.voiced) and self._is_asked()
                self._forget_utterance()
            state.begins = False
            state.turn_left = max(state.turn_left, rules.turn_frames)
        if sight.busy:
            state.turn_left = max(state.turn_left, rules.reply_frames)
        if went_on and not state.turn_left and state.voicing.silent >= rules.pause_frames:
            self._forget_utterance()  # a murmur of assent asks for nothing

    def _judge_interruption(self) -> None:
        """Begin, go on with or end a yield."""
        state, rules, voicing = self.state, self.rules, self.state.voicing
        if state.yielding:
            over = voicing.silent >= rules.pause_frames or state.yielding >= rules.yield_frames
            state.yielding = 0 if over else state.yielding + 1
        elif voicing.talks_over(rules.voicing):
            state.yielding, state.turn_left = 1, 0

    def _decide(self) -> FloorOrder:
        state, rules, voicing = self.state, self.rules, self.state.voicing
        if state.yielding:
            return FloorOrder(Move.YIELD)
        if state.turn_left:
            # Who is silent, waiting for what is looked up, does not begin while somebody speaks.
            waits = not voicing.model_sounds and voicing.goes_on
            # Who says "let me see" to thanks looks nothing up for it.
            return HOLD if waits else FloorOrder(asks=state.asked)
        looks_ahead = bool(state.voiced) and voicing.silent == rules.pause_frames
        wait = self._wait()
        settled = voicing.silent > rules.pause_frames
        if state.begins and settled:
            state.begins = wait is None
        if state.begins and not voicing.evidence:
            # Nobody has asked it anything.
            order = self._nudge(state.age - rules.begin_frames, rules.begin_step, asks=False)
            return replace(order, looks_ahead=looks_ahead)
        if not settled or wait is None or not 0 <= voicing.silent - wait < rules.answer_frames:
            return FloorOrder(Move.HOLD, looks_ahead=looks_ahead)
        quick = wait == rules.question_frames
        patience = rules.answer_question_frames if quick else rules.answer_rest_frames
        late = voicing.silent - max(wait, patience)
        return self._nudge(late, rules.answer_step, asks=self._is_asked())

    def _is_asked(self) -> bool:
        """Whether what the user has said may be cause for a lookup."""
        state, rules = self.state, self.rules
        if self.ending is Ending.STATEMENT and state.voiced < rules.thanks_frames:
            return False
        words = self._all_words
        if words is None:
            return True
        return not is_small_talk(words) and not self._is_story(words)

    def _is_story(self, words: str) -> bool:
        """Whether it took long, and asks nothing in the end."""
        return self.state.voiced >= self.rules.story_frames and not asks_at_the_end(words)

    @property
    def _all_words(self) -> str | None:
        """What the user has said, if all of it is known."""
        state = self.state
        return state.words if state.hears and state.caught_up else state.ahead

    def _nudge(self, late: int, step: float, *, asks: bool) -> FloorOrder:
        """Urge the model on when it has been `late` for so many frames."""
        if not 0 < late <= self.rules.urge_frames:
            return FloorOrder(asks=asks)
        return FloorOrder(Move.NUDGE, min(late * step, self.rules.urge_limit), asks)

    def _wait(self) -> int | None:
        """Frames of silence after which the user's turn is over; None if there is none."""
        state, rules = self.state, self.rules
        if state.voiced < rules.least_frames:
            return None
        match self.ending:
            case Ending.NOTHING:
                return None
            case Ending.UNKNOWN:
                return rules.unknown_frames
            case Ending.UNFINISHED:
                return rules.unfinished_frames
            case Ending.STATEMENT:
                return rules.statement_frames
            case Ending.RISING:
                fluent = state.stretch >= rules.fluent_frames
                whole = fluent or state.voiced >= rules.rising_frames
            case Ending.QUESTION:
                whole = state.voiced >= rules.least_question_frames
        return rules.question_frames if whole else rules.short_question_frames

    @property
    def ending(self) -> Ending:
        """How what the user has said ends."""
        state, rules = self.state, self.rules
        if (words := self._all_words) is not None:
            ending = ending_of(words)
            if ending in (Ending.RISING, Ending.QUESTION) and self._is_story(words):
                ending = Ending.STATEMENT
            short = rules.least_frames <= state.stretch <= rules.hesitation_frames
            hesitates = state.gaps and short
            return Ending.UNFINISHED if hesitates and ending is not Ending.NOTHING else ending
        if not state.hears:
            return Ending.UNKNOWN
        # Recognition that never catches up must not keep the model silent for ever.
        known = bool(state.words) or state.voicing.silent >= rules.unfinished_frames
        return Ending.UNKNOWN if known else Ending.UNFINISHED

    def _forget_utterance(self) -> None:
        state = self.state
        state.voiced, state.stretch, state.gaps, state.begun = 0, 0, False, 0
        state.words, state.ahead = "", None


def _known(kind: type, values: Any, where: str) -> dict[str, Any]:
    """A copy of a mapping of fields of a dataclass."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be an object, got {values!r}")
    strange = sorted(map(str, values.keys() - {one.name for one in fields(kind)}))
    if strange:
        raise ConfigError(f"{where} has unknown keys: {', '.join(strange)}")
    return dict(values)
