"""One live conversation as the tick thread holds it: core, queues, log, and where it stands."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from duologue.dialogue import (
    CancelLookup,
    Command,
    Control,
    EncodeReference,
    EncodingFailed,
    End,
    EndReason,
    Event,
    InjectReference,
    LookupAnswered,
    LookupFailed,
    Output,
    ReferenceEncoded,
    Reply,
    Report,
    RetrievalStarted,
    SessionEnded,
    StartLookup,
    WarningCode,
)
from duologue.engine.api import SessionOptions
from duologue.session.core import ConversationCore, ConversationFrame, FrameGiven, frame_digest
from duologue.session.eventlog import SessionLog
from duologue.session.inputs import InputQueue
from duologue.session.outputs import OutputQueue

MAX_CONTROLS = 32
"""Controls of one session that wait for the tick thread; further ones are dropped."""


@dataclass(eq=False)
class Seat:
    """A slot that is taken, and by whom. Only the tick thread calls its methods."""

    id: str
    options: SessionOptions
    core: ConversationCore
    input: InputQueue
    output: OutputQueue
    log: SessionLog | None = None
    attached: bool = True
    changed_s: float = 0.0
    """When it was attached, detached or made ready last."""
    starting: Iterator[None] | None = None
    ready: Future[None] = field(default_factory=Future)
    """Done when the first start is over, with its error if it failed."""
    last_step_s: float | None = None
    told_drops: int = 0
    wants_words: bool = False
    """A retrieval has begun, so what the user has just said is wanted soon."""
    pending: dict[int | tuple[int, int], Command] = field(default_factory=dict)
    """Commands under way outside, by lookup or by sequence and part."""
    early: list[Command] = field(default_factory=list)
    """Commands that came before there was anybody to carry them out; the event loop's."""
    partly: set[int] = field(default_factory=set)
    """Lookups that have answered in part."""
    end_reason: EndReason | None = None
    controls: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_CONTROLS))

    @property
    def ended(self) -> bool:
        return self.end_reason is not None

    @property
    def listens(self) -> bool:
        """Whether a frame of its user would be made into one of its model."""
        return self.attached and not self.ended and self.starting is None

    def take(self, frame: ConversationFrame, given: FrameGiven) -> list[Command]:
        """Put out a frame's events; returns the commands."""
        if self.log is not None:
            digest = frame_digest(frame.made)
            self.log.frame(
                frame.frame, given.pcm, frame.heard, digest, frame.outputs, frame.made.told
            )
        return self._put(frame.outputs)

    def receive(self, given: Reply | Control, rows: Tensor | None = None) -> list[Command]:
        """Take a reply or control, put out what it causes; returns the commands."""
        if self.ended:
            return []
        self._close_pending(given)
        outputs = self.core.receive(given, rows)
        if self.log is not None:
            self.log.receive(given, rows, outputs)
        return self._put(outputs)

    def tell_drops(self) -> list[Command]:
        """Say in the conversation what of its audio was lost since the last time."""
        lost = self.input.dropped_frames - self.told_drops
        if not lost:
            return []
        self.told_drops += lost
        detail = f"{lost} frames of input came too fast or too late and were dropped"
        return self.receive(Report(WarningCode.OVERRUN, detail))

    def fail(self, detail: str) -> list[Command]:
        """End as failed, by force if the brain itself is what fails."""
        try:
            return self.receive(End(EndReason.FAILED, detail))
        except Exception:
            if not self.ended:
                self._put([SessionEnded(max(0, self.core.brain.frame), EndReason.FAILED, detail)])
            return []

    def _put(self, outputs: Sequence[Output]) -> list[Command]:
        commands: list[Command] = []
        events: list[Event] = []
        for output in outputs:
            match output:
                case StartLookup() | CancelLookup() | EncodeReference():
                    commands.append(output)
                    self.note_pending(output)
                case InjectReference():
                    pass  # done by the core
                case _:
                    events.append(output)
                    self.wants_words |= isinstance(output, RetrievalStarted)
                    if isinstance(output, SessionEnded):
                        self.end_reason = output.reason
        if not self.output.put(events) and not self.ended:
            detail = f"the client left {len(self.output)} events unread"
            commands += self.fail(detail)
        return commands

    def note_pending(self, command: Command) -> None:
        """Remember what is under way, so that a snapshot can ask for it again."""
        match command:
            case StartLookup():
                self.pending[command.lookup] = command
            case CancelLookup():
                self._forget(command.lookup)
            case EncodeReference():
                self.pending[command.sequence, command.part] = command
                for key in [key for key in self.pending if _is_older(key, command.sequence)]:
                    del self.pending[key]

    def _close_pending(self, given: Reply | Control) -> None:
        match given:
            case LookupAnswered(final=False):
                self.partly.add(given.lookup)
            case LookupAnswered() | LookupFailed():
                self._forget(given.lookup)
            case ReferenceEncoded() | EncodingFailed():
                self.pending.pop((given.sequence, given.part), None)

    def _forget(self, lookup: int) -> None:
        self.pending.pop(lookup, None)
        self.partly.discard(lookup)


def _is_older(key: int | tuple[int, int], sequence: int) -> bool:
    return isinstance(key, tuple) and key[0] < sequence
