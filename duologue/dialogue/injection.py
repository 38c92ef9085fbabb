"""From the text of a reference to rows in the model's frames.

Two pieces of bookkeeping. `Delivery` follows the parts of the newest reference through the encoder
and asks for their injection in order. `InjectionLedger` mirrors what the model's slot does with
them: row k is added at the k-th frame after arrival, counted from 0 at the first frame executed
afterwards; a newer reference replaces the rest of an older one; then nothing is added again
(MoshiRAG reference, streaming sum).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from duologue.dialogue.checks import IllegalMove, check_int, check_type
from duologue.dialogue.events import ReferenceInjected, Warning, WarningCode
from duologue.dialogue.hedging import AnswerPart
from duologue.dialogue.ports import (
    EncodeReference,
    EncodingFailed,
    InjectionKind,
    InjectReference,
    Output,
    ReferenceEncoded,
)


class OnFailure(Enum):
    """What the model gets for a retrieval without a reference.

    `ZERO`: one row of zeros, which changes nothing except that it ends an older reference
    (published Python). `LEARNT_PADDING`: the learnt "no reference" vector for one frame, as in
    training (published Rust). `NOTHING`: rows of an older reference run on.
    """

    NOTHING = "nothing"
    ZERO = "zero"
    LEARNT_PADDING = "learnt_padding"


@dataclass(frozen=True)
class ReferenceRules:
    """Bounds of one reference.

    Text beyond `max_characters`, parts beyond `max_parts` and rows beyond `max_rows` are cut off,
    with a warning. A part that is not encoded within `encode_deadline_frames` is left out.
    """

    on_failure: OnFailure = OnFailure.ZERO
    encode_deadline_frames: int = 375
    max_characters: int = 4_000
    max_parts: int = 16
    max_rows: int = 512

    def __post_init__(self) -> None:
        check_type(self, "on_failure", OnFailure)
        check_int(self, "encode_deadline_frames", 1, 10_000)
        check_int(self, "max_characters", 1, 100_000)
        check_int(self, "max_parts", 1, 256)
        check_int(self, "max_rows", 1, 10_000)


@dataclass(frozen=True)
class RowAdded:
    """One reference row that went into one frame."""

    sequence: int
    kind: InjectionKind
    row: int


@dataclass
class InjectionLedger:
    """The rows still to be added, as the model's slot holds them."""

    sequence: int = 0
    kind: InjectionKind = InjectionKind.REFERENCE
    next_row: int = 0
    left: int = 0

    def install(self, command: InjectReference) -> None:
        """Record an injection; one that is older than what is there is refused."""
        if command.sequence < self.sequence:
            raise IllegalMove(
                f"reference {command.sequence} would replace the newer {self.sequence}"
            )
        if command.append and command.sequence == self.sequence:
            self.left += command.rows
            return
        self.sequence, self.kind = command.sequence, command.kind
        self.next_row, self.left = 0, command.rows

    def step(self) -> RowAdded | None:
        """Execute one frame and return the row it took, if any."""
        if not self.left:
            return None
        added = RowAdded(self.sequence, self.kind, self.next_row)
        self.next_row += 1
        self.left -= 1
        return added

    def clear(self) -> None:
        """Forget pending rows, as the reset of a slot does."""
        self.left = 0


@dataclass
class PartState:
    """A part on its way: at the encoder (`rows` None), encoded, or `lost`."""

    part: int
    deadline_frame: int
    rows: int | None = None
    lost: bool = False


@dataclass
class DeliveryState:
    """All that a delivery remembers; `parts` holds only those not yet injected, in order."""

    sequence: int = 0
    parts: list[PartState] = field(default_factory=list)
    next_part: int = 0
    rows_used: int = 0
    truncated: bool = False
    ledger: InjectionLedger = field(default_factory=InjectionLedger)


class Delivery:
    """Takes the newest reference from text to injection; older ones are dropped."""

    def __init__(self, rules: ReferenceRules, state: DeliveryState | None = None) -> None:
        self.rules = rules
        self.state = state or DeliveryState()

    @property
    def is_encoding(self) -> bool:
        """Whether parts are still on their way."""
        return bool(self.state.parts)

    @property
    def rows_left(self) -> int:
        """Rows installed and not yet added."""
        return self.state.ledger.left

    def requested_frame(self, sequence: int, part: int) -> int | None:
        """Return when a part was sent to the encoder, None if no answer to that is awaited."""
        waiting = self._awaited(sequence, part)
        if waiting is None:
            return None
        return waiting.deadline_frame - self.rules.encode_deadline_frames

    def begin(self, sequence: int, frame: int) -> list[Output]:
        """Make way for a newer reference; what the older one still had to inject is dropped."""
        out = self.abandon(frame, "a newer retrieval began before its rows were ready")
        self.state = DeliveryState(sequence=sequence, ledger=self.state.ledger)
        return out

    def abandon(self, frame: int, why: str) -> list[Output]:
        """Drop the parts that are on their way; rows already installed run on."""
        if not self.state.parts:
            return []
        self.state.parts.clear()
        return [self._warning(frame, WarningCode.REFERENCE_DROPPED, why)]

    def silence(self, frame: int) -> list[Output]:
        """Drop the rows that are installed and not yet added."""
        ledger = self.state.ledger
        if not ledger.left:
            return []
        command = InjectReference(ledger.sequence, 0, frame, rows=1, kind=InjectionKind.ZERO)
        ledger.install(command)
        return [command]

    def add(self, part: AnswerPart, frame: int) -> list[Output]:
        """Take the next part of the reference: encode it, or inject it if that is done."""
        state = self.state
        number = state.next_part
        state.next_part += 1
        deadline_frame = frame + self.rules.encode_deadline_frames
        state.parts.append(PartState(number, deadline_frame, part.rows))
        if part.rows is not None:
            return self._flush(frame)
        return [EncodeReference(state.sequence, number, frame, part.text, deadline_frame)]

    def encoded(self, reply: ReferenceEncoded, frame: int) -> list[Output] | None:
        """Take the encoder's answer; None when nobody waits for it."""
        waiting = self._awaited(reply.sequence, reply.part)
        if waiting is None:
            return None
        waiting.rows = reply.rows
        return self._flush(frame)

    def encoding_failed(self, reply: EncodingFailed, frame: int) -> list[Output] | None:
        """Leave a part out; None when nobody waits for it."""
        waiting = self._awaited(reply.sequence, reply.part)
        if waiting is None:
            return None
        waiting.lost = True
        warning = self._warning(frame, WarningCode.ENCODING_FAILED, reply.reason[:200])
        return [warning, *self._flush(frame)]

    def no_reference(self, frame: int) -> list[Output]:
        """Do what the rules say for a retrieval that found nothing."""
        if self.rules.on_failure is OnFailure.NOTHING:
            return []
        kind = InjectionKind(self.rules.on_failure.value)
        command = InjectReference(self.state.sequence, 0, frame, rows=1, kind=kind)
        self.state.ledger.install(command)
        return [command]

    def tick(self, frame: int) -> list[Output]:
        """Leave out the parts whose encoding deadline has come."""
        out: list[Output] = []
        for part in self.state.parts:
            if part.rows is None and not part.lost and frame >= part.deadline_frame:
                part.lost = True
                detail = f"part {part.part} was not encoded in time"
                out.append(self._warning(frame, WarningCode.ENCODING_TIMED_OUT, detail))
        return out + self._flush(frame) if out else out

    def clear(self) -> None:
        """Forget everything but the sequence number, as a reset does."""
        self.state.parts.clear()
        self.state.ledger.clear()

    def _awaited(self, sequence: int, number: int) -> PartState | None:
        if sequence != self.state.sequence:
            return None
        for part in self.state.parts:
            if part.part == number and part.rows is None and not part.lost:
                return part
        return None

    def _flush(self, frame: int) -> list[Output]:
        """Inject the parts at the head of the queue that are ready."""
        state = self.state
        out: list[Output] = []
        while state.parts and (state.parts[0].lost or state.parts[0].rows is not None):
            part = state.parts.pop(0)
            wanted = 0 if part.lost else part.rows or 0
            rows = min(wanted, self.rules.max_rows - state.rows_used)
            if rows < wanted and not state.truncated:
                state.truncated = True
                detail = f"only {self.rules.max_rows} rows of a reference are injected"
                out.append(self._warning(frame, WarningCode.REFERENCE_TRUNCATED, detail))
            if rows <= 0:
                continue
            append = state.rows_used > 0
            state.rows_used += rows
            command = InjectReference(state.sequence, part.part, frame, rows, append=append)
            state.ledger.install(command)
            out += [command, ReferenceInjected(state.sequence, frame, rows, part.part)]
        return out

    def _warning(self, frame: int, code: WarningCode, detail: str) -> Warning:
        return Warning(frame, code, detail, self.state.sequence)
