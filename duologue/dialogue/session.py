"""One conversation: frames in, events and commands out.

`Conversation` puts turns, transcript, retrieval and injection on one frame clock. It has no clock,
no task and no socket of its own: `advance` takes what one frame brought, `receive` takes what
comes between frames, and both return what happened and what is to be done, in order. Equal inputs
give equal outputs, and a snapshot at any point continues exactly like the original.

Order within a frame: controls, the model's audio, the user's words, the model's text or trigger,
replies, then waits and deadlines. Nothing here raises for what a back end answers; errors are for
callers who break the clock (`InputError`) or go on after the end (`IllegalMove`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Self

from duologue.dialogue.checks import IllegalMove, InputError, check_int, check_type
from duologue.dialogue.clock import MAX_FRAMES, frames_covering, frames_within
from duologue.dialogue.events import (
    AudioFrame,
    CancelReason,
    ConversationReset,
    EndReason,
    Role,
    SessionEnded,
    TextToken,
    TurnStarted,
    Warning,
    WarningCode,
)
from duologue.dialogue.floor import Floor, FloorOrder, FloorRules, FloorSight, FloorState, Move
from duologue.dialogue.injection import Delivery, DeliveryState, RowAdded
from duologue.dialogue.latency import LatencyHistogram
from duologue.dialogue.model_time import HeldReplies
from duologue.dialogue.ports import (
    Control,
    End,
    FrameInput,
    Input,
    Interrupt,
    ModelFrame,
    Output,
    Reply,
    Report,
    Reset,
    SelectBackend,
    UserFrame,
)
from duologue.dialogue.records import RecordError, from_data, to_data
from duologue.dialogue.retrieval import (
    Phase,
    RetrievalPolicy,
    RetrievalRules,
    RetrievalState,
    Scene,
    TriggerSource,
)
from duologue.dialogue.transcript import ContextRules, Transcript, TranscriptState
from duologue.dialogue.turns import Countdown, TurnEvent, TurnManager, TurnRules, TurnState
from duologue.dialogue.waiting import Listening

SNAPSHOT_VERSION = 2
MAX_WORDS_PER_FRAME = 64
"""Recognised pieces beyond this many in one frame are dropped, with a warning."""

NEVER_FRAMES = 4_500
"""Deadline that stands for "no time limit": six minutes, the published cap of a session."""


class LatencyMode(Enum):
    """Take replies when they come, or simulate their measured latency in model time."""

    REAL = "real"
    SIMULATED = "simulated"


@dataclass(frozen=True)
class ConversationConfig:
    """All settings of a conversation; without arguments, the published ones.

    Without `floor` rules the model speaks and falls silent as it likes (published). After
    `max_frames` frames the session ends with `EndReason.FRAME_LIMIT`.
    """

    initial_speaker: Role = Role.MODEL
    latency: LatencyMode = LatencyMode.REAL
    max_frames: int = 4_500
    turns: TurnRules = field(default_factory=TurnRules)
    context: ContextRules = field(default_factory=ContextRules)
    retrieval: RetrievalRules = field(default_factory=RetrievalRules)
    floor: FloorRules | None = None

    def __post_init__(self) -> None:
        check_type(self, "initial_speaker", Role)
        check_type(self, "latency", LatencyMode)
        check_int(self, "max_frames", 1, MAX_FRAMES)
        check_type(self, "turns", TurnRules)
        check_type(self, "context", ContextRules)
        check_type(self, "retrieval", RetrievalRules)
        if self.floor is not None:
            check_type(self, "floor", FloorRules)

    @classmethod
    def published(
        cls,
        *,
        stt_wait_s: float = 1.0,
        rag_timeout_s: float = 1.5,
        initial_speaker: Role = Role.MODEL,
        backends: tuple[str, ...] = ("default",),
    ) -> ConversationConfig:
        """The MoshiRAG reference's live server; a timeout of 0 stands for six minutes."""
        wait_steps = frames_within(stt_wait_s)
        deadline_frames = frames_covering(rag_timeout_s) or NEVER_FRAMES
        return cls(
            initial_speaker=initial_speaker,
            turns=TurnRules.published(wait_steps),
            context=ContextRules.published(),
            retrieval=RetrievalRules.published(
                wait_steps=wait_steps, deadline_frames=deadline_frames, backends=backends
            ),
        )

    @classmethod
    def published_offline(
        cls,
        *,
        stt_wait_s: float = 0.5,
        rag_timeout_s: float = 10.0,
        initial_speaker: Role = Role.USER,
        backends: tuple[str, ...] = ("default",),
    ) -> ConversationConfig:
        """The MoshiRAG reference's offline inference: latency simulated in model time."""
        live = cls.published(
            stt_wait_s=stt_wait_s,
            rag_timeout_s=rag_timeout_s,
            initial_speaker=initial_speaker,
            backends=backends,
        )
        return cls(
            initial_speaker=initial_speaker,
            latency=LatencyMode.SIMULATED,
            turns=live.turns,
            context=live.context,
            retrieval=live.retrieval,
        )

    @classmethod
    def improved(
        cls,
        *,
        initial_speaker: Role = Role.MODEL,
        latency: LatencyMode = LatencyMode.REAL,
        backends: tuple[str, ...] = ("default",),
    ) -> ConversationConfig:
        """Everything that is better than published, and sessions of up to an hour."""
        return cls(
            initial_speaker=initial_speaker,
            latency=latency,
            max_frames=45_000,
            turns=TurnRules.improved(),
            context=ContextRules.improved(),
            retrieval=RetrievalRules.improved(backends),
        )


@dataclass
class Counters:
    """What was ignored or lost without an event of its own."""

    stale_replies: int = 0
    held_replies_dropped: int = 0
    words_dropped: int = 0


@dataclass
class ConversationState:
    """All that a conversation remembers."""

    turns: TurnState
    transcript: TranscriptState
    delivery: DeliveryState
    retrieval: RetrievalState
    floor: FloorState | None = None
    listening: Listening = field(default_factory=Listening)
    held: HeldReplies = field(default_factory=HeldReplies)
    counters: Counters = field(default_factory=Counters)
    frame: int = -1
    row_added: RowAdded | None = None
    trimmed_told: int = 0
    dropped_told: int = 0
    ended: bool = False


class Conversation:
    """A conversation on the frame clock; see the module's docstring for its guarantees."""

    def __init__(
        self,
        config: ConversationConfig | None = None,
        *,
        latencies: Mapping[str, LatencyHistogram] | None = None,
    ) -> None:
        """Start a conversation; `latencies` is what earlier ones learnt about the back ends."""
        self.config = config or ConversationConfig()
        known = self.config.retrieval.hedge.backends
        learnt = {name: seen.copy() for name, seen in (latencies or {}).items() if name in known}
        self._build(
            ConversationState(
                turns=TurnState(active=self.config.initial_speaker),
                transcript=TranscriptState(),
                delivery=DeliveryState(),
                retrieval=RetrievalState(selected=known[0], latencies=learnt),
            )
        )

    @property
    def frame(self) -> int:
        """The last frame taken, -1 before the first."""
        return self._state.frame

    @property
    def ended(self) -> bool:
        """Whether `SessionEnded` has been given out."""
        return self._state.ended

    @property
    def active_speaker(self) -> Role:
        """The side that has the floor."""
        return self._turns.active_speaker

    @property
    def phase(self) -> Phase:
        """What retrieval is busy with."""
        return self._policy.phase

    @property
    def transcript(self) -> Transcript:
        """What has been said, for reading."""
        return self._transcript

    @property
    def counters(self) -> Counters:
        """What was ignored or lost so far."""
        return self._state.counters

    @property
    def latencies(self) -> dict[str, LatencyHistogram]:
        """What has been learnt about the back ends, copied."""
        return {name: seen.copy() for name, seen in self._policy.state.latencies.items()}

    @property
    def row_added(self) -> RowAdded | None:
        """The reference row that went into the last frame, if any."""
        return self._state.row_added

    @property
    def rows_left(self) -> int:
        """Reference rows installed and not yet added."""
        return self._delivery.rows_left

    def order(self, level_db: float | None) -> FloorOrder | None:
        """What the model is to do in the next frame, in which the user's has this level in dB.

        None without floor rules. Changes nothing: `advance` comes to the same when the frame is
        made.
        """
        return None if self._floor is None else self._floor.order(level_db)

    def advance(self, given: FrameInput) -> list[Output]:
        """Take one frame and return what happened and what is to be done, in order.

        Frames are numbered from 0 without gaps; another number is an `InputError` and changes
        nothing. After the end it is an `IllegalMove`.
        """
        if self._state.ended:
            raise IllegalMove("the session has ended")
        if given.frame != self._state.frame + 1:
            raise InputError(f"FrameInput.frame must be {self._state.frame + 1}, got {given.frame}")
        self._state.frame = given.frame
        self._state.row_added = self._delivery.state.ledger.step()
        out: list[Output] = []
        for control in given.controls:
            self._control(control, out)
            if self._state.ended:
                return out
        if given.model is not None and given.model.audio is not None:
            out.append(AudioFrame(given.frame, given.model.audio))
        self._yield_floor(given, out)
        self._listen(given.user, out)
        self._model(given, out)
        for reply in self._state.held.take_due(given.frame):
            self._reply(reply, out)
        for reply in given.replies:
            self._take(reply, out)
        self._turns.end_frame()
        out += self._policy.tick(self._scene())
        self._note_floor(given)
        self._report_losses(out)
        if given.frame + 1 >= self.config.max_frames:
            self._end(EndReason.FRAME_LIMIT, f"{self.config.max_frames} frames", out)
        return out

    def receive(self, given: Reply | Control) -> list[Output]:
        """Take a reply or a control between two frames; late ones after the end are ignored."""
        out: list[Output] = []
        if self._state.ended:
            self._state.counters.stale_replies += 1
        elif isinstance(given, Control):
            self._control(given, out)
        else:
            self._take(given, out)
        return out

    def snapshot(self) -> dict[str, Any]:
        """Return everything, settings included, as plain JSON-able data."""
        state = replace(
            self._state,
            turns=self._turns.state,
            transcript=self._transcript.state,
            delivery=self._delivery.state,
            retrieval=self._policy.state,
            floor=None if self._floor is None else self._floor.state,
        )
        return {
            "version": SNAPSHOT_VERSION,
            "config": to_data(self.config, "config"),
            "state": to_data(state, "state"),
        }

    @classmethod
    def restore(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a conversation that continues exactly where the snapshot was taken."""
        version = data.get("version")
        if version != SNAPSHOT_VERSION or set(data) != {"version", "config", "state"}:
            raise RecordError(f"not a conversation snapshot of version {SNAPSHOT_VERSION}")
        conversation = cls(from_data(ConversationConfig, data["config"], "config"))
        conversation._build(from_data(ConversationState, data["state"], "state"))
        return conversation

    def _build(self, state: ConversationState) -> None:
        config = self.config
        self._turns = TurnManager(config.turns, config.initial_speaker, state.turns)
        self._transcript = Transcript(config.context, state.transcript)
        self._delivery = Delivery(config.retrieval.reference, state.delivery)
        self._policy = RetrievalPolicy(config.retrieval, self._delivery, state.retrieval)
        self._floor = None
        if config.floor is not None:
            begins = config.initial_speaker is Role.MODEL
            self._floor = Floor(config.floor, begins, state.floor)
        self._state = state

    def _scene(self) -> Scene:
        return Scene(self._state.frame, self._transcript, self._turns, self._state.listening)

    # One frame.

    def _listen(self, user: UserFrame, out: list[Output]) -> None:
        frame, inactivity = self._state.frame, user.inactivity
        if inactivity is not None:
            self._turns.update_vad(inactivity)
        words = [word for word in user.words[:MAX_WORDS_PER_FRAME] if word]
        self._state.counters.words_dropped += max(0, len(user.words) - MAX_WORDS_PER_FRAME)
        for word in words:
            self._say(self._turns.hear(word, frame), out)
        heard_to = user.transcribed_frame
        if heard_to is None:
            heard_to = frame - self.config.retrieval.wait.stt_delay_frames
        threshold = self.config.turns.vad_threshold
        speaks = None if inactivity is None else inactivity < threshold
        new_words = sum(1 for word in words if not word.isspace())
        self._state.listening.update(frame, heard_to, speaks, new_words)

    def _model(self, given: FrameInput, out: list[Output]) -> None:
        """Take the model's text; a frame that gives out the trigger has none."""
        model = given.model or ModelFrame()
        if given.model is not None and not model.triggered:
            self._say(self._turns.speak(model.text, given.frame), out)
        elif self.config.turns.countdown is Countdown.FRAMES:
            self._say(self._turns.speak(None, given.frame), out)
        sampled = self.config.retrieval.trigger is TriggerSource.SAMPLED
        if given.sampled_trigger if sampled else model.triggered:
            out += self._policy.trigger(self._scene())

    def _say(self, events: Iterable[TurnEvent], out: list[Output]) -> None:
        """Give out what the turn manager decided, and write it down."""
        for event in events:
            out.append(event)
            if isinstance(event, TextToken):
                self._transcript.append(event.role, event.text)
                continue
            self._transcript.open_turn(event.role, event.frame)
            if self._user_barged_in(event):
                out += self._policy.cancel(CancelReason.BARGE_IN, event.frame)

    def _user_barged_in(self, turn: TurnStarted) -> bool:
        rules = self.config.retrieval
        return rules.cancel_on_user_turn and turn.role is Role.USER and turn.index > 0

    def _yield_floor(self, given: FrameInput, out: list[Output]) -> None:
        """Let the floor policy hear the user; whoever is interrupted has nothing more to say."""
        if self._floor is None:
            return
        yielded = self._floor.yields
        if self._floor.listen(given.user.level_db).move is Move.YIELD and not yielded:
            out += self._policy.cancel(CancelReason.BARGE_IN, given.frame)
            out += self._delivery.silence(given.frame)

    def _note_floor(self, given: FrameInput) -> None:
        if self._floor is None:
            return
        user, model, listening = given.user, given.model or ModelFrame(), self._state.listening
        last_voice = given.frame - self._floor.state.voicing.silent
        self._floor.note(
            FloorSight(
                words="".join(user.words[:MAX_WORDS_PER_FRAME]),
                words_late=self.config.retrieval.wait.stt_delay_frames,
                caught_up=listening.transcribed_frame >= last_voice,
                ahead=user.ahead,
                hears=user.transcribed_frame is not None or user.ahead is not None,
                speaks=bool(model.text)
                or model.triggered
                or given.sampled_trigger
                or given.sampled_speech,
                busy=self._policy.phase is not Phase.IDLE or self._delivery.rows_left > 0,
                level_db=model.level_db,
            )
        )

    def _report_losses(self, out: list[Output]) -> None:
        """Warn when text was lost: the context's bound once, dropped pieces whenever they are."""
        if self._transcript.trimmed and not self._state.trimmed_told:
            detail = "the context is full; the oldest turns are forgotten from now on"
            out.append(Warning(self._state.frame, WarningCode.CONTEXT_TRIMMED, detail))
        self._state.trimmed_told = self._transcript.trimmed
        lost = self._turns.dropped + self._state.counters.words_dropped
        if lost > self._state.dropped_told:
            detail = f"{lost - self._state.dropped_told} pieces of text were dropped"
            out.append(Warning(self._state.frame, WarningCode.TEXT_DROPPED, detail))
        self._state.dropped_told = lost

    # Replies and controls.

    def _take(self, reply: Reply, out: list[Output]) -> None:
        """Let a reply count now or, in simulated model time, when its latency has passed."""
        if self.config.latency is LatencyMode.SIMULATED and reply.elapsed_s is not None:
            asked_frame = self._policy.asked_frame(reply)
            if asked_frame is None:
                self._state.counters.stale_replies += 1
                return
            due_frame = asked_frame + frames_within(reply.elapsed_s)
            if due_frame > self._state.frame:
                self._hold(reply, due_frame, out)
                return
        self._reply(reply, out)

    def _hold(self, reply: Reply, due_frame: int, out: list[Output]) -> None:
        def is_awaited(held: Reply) -> bool:
            return self._policy.asked_frame(held) is not None

        if not self._state.held.hold(reply, due_frame, is_awaited):
            self._state.counters.held_replies_dropped += 1
            detail = "too many replies are waiting for their frame"
            out.append(Warning(self._state.frame, WarningCode.REPLIES_DROPPED, detail))

    def _reply(self, reply: Reply, out: list[Output]) -> None:
        caused = self._policy.reply(reply, self._scene())
        if caused is None:
            self._state.counters.stale_replies += 1
        else:
            out += caused

    def _control(self, control: Control, out: list[Output]) -> None:
        frame = self._state.frame
        match control:
            case Interrupt():
                out += self._policy.cancel(CancelReason.BARGE_IN, frame)
            case SelectBackend(backend):
                out += self._policy.select(backend, frame)
            case Report(code, detail):
                out.append(Warning(frame, code, detail[:500]))
            case Reset():
                self._reset(out)
            case End(reason, detail):
                self._end(reason, detail[:500], out)

    def _reset(self, out: list[Output]) -> None:
        out += self._policy.reset(self._state.frame)
        self._turns.reset()
        if self._floor is not None:
            self._floor.reset()
        self._transcript.state = TranscriptState()
        self._state.listening = Listening()
        self._state.held = HeldReplies()
        self._state.trimmed_told = 0
        self._state.dropped_told = self._state.counters.words_dropped
        out.append(ConversationReset(self._state.frame))

    def _end(self, reason: EndReason, detail: str, out: list[Output]) -> None:
        out += self._policy.cancel(CancelReason.SESSION_ENDED, self._state.frame)
        self._state.ended = True
        out.append(SessionEnded(self._state.frame, reason, detail))


def replay(conversation: Conversation, inputs: Iterable[Input]) -> list[Output]:
    """Hand a log of inputs to a conversation in the state it had then; the outputs are the same."""
    out: list[Output] = []
    for given in inputs:
        if isinstance(given, FrameInput):
            out += conversation.advance(given)
        else:
            out += conversation.receive(given)
    return out
