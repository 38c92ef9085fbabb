"""One conversation on one slot: a frame of the user's audio in, a `ConversationFrame` out.

Model and dialogue brain advance together, so what the brain injects is in the model's very next
frame, and equal inputs give equal bits. There is no clock here: the live engine calls `advance`
80 ms at a time, offline programs as fast as they like. Commands that need the outside world
(lookups, encoding) are handed out; what comes of them is handed in through `receive`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.audio.levels import frame_db
from duologue.dialogue import (
    Control,
    Conversation,
    ConversationReset,
    EncodeReference,
    FloorOrder,
    FrameInput,
    InjectionKind,
    InjectReference,
    ModelFrame,
    Move,
    Output,
    Quotation,
    ReferenceEncoded,
    Reply,
    Report,
    Role,
    StartLookup,
    TurnStarted,
    UserFrame,
    WarningCode,
)
from duologue.engine.api import EngineError, Steer
from duologue.engine.slots import SlotBank, SlotFrame, SlotSetup
from duologue.session.questions import Questions
from duologue.session.text import TextReader
from duologue.stt.ports import Heard

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAX_WAITING_PARTS = 64
"""Encoded parts that wait for their injection; the brain asks for far fewer."""


class SlotFault(EngineError):
    """A slot's numbers are not finite any more; its conversation cannot go on."""


@dataclass(frozen=True)
class FrameGiven:
    """What one frame brings to a conversation.

    `heard` is remote recognition's, or a log's; with local recognition it is None and made here.
    """

    pcm: NDArray[np.float32]
    heard: Heard | None = None
    told: NDArray[np.float32] | None = None
    """What the model was told of the user [heard_dim], from a log; for models that listen alone."""

    @property
    def level_db(self) -> float:
        """Power of the user's audio in dB of full scale."""
        return frame_db(self.pcm)


@dataclass(frozen=True)
class ConversationFrame:
    """What one frame gives: events and commands in order, and what the frame was made of."""

    frame: int
    outputs: list[Output]
    heard: Heard
    made: SlotFrame


class ConversationCore:
    """See the module. `slot` must not be used by anybody else.

    With `flushes`, local recognition catches up at once when the model asks for knowledge. That
    takes several of its steps: nothing in model time, and measured by the conductor for live time.
    """

    def __init__(
        self,
        bank: SlotBank,
        slot: int,
        brain: Conversation,
        setup: SlotSetup,
        *,
        flushes: bool = False,
        keeps_frames: int = 0,
    ) -> None:
        """
        Args:
            keeps_frames: of the user's sound, for questions to be heard again.
        """
        self.bank, self.slot, self.brain, self.setup = bank, slot, brain, setup
        self.flushes = flushes
        self.questions = Questions(keeps_frames)
        self.needs_start = True
        self.closed = False
        """Whether the slot is given back, and may be somebody else's; set by whoever does that."""
        self._text = TextReader(bank.model)
        self._parts: dict[tuple[int, int], Tensor] = {}
        self._quotation, self._quoting = Quotation(), bank.model.lm.defaults.quoting
        self._texts: dict[tuple[int, int], str] = {}
        """Of the parts that are encoded, where they are quoted."""
        self._words = bank.recogniser.assembler() if bank.recogniser else None

    def check_open(self) -> None:
        """
        Raises:
            EngineError: the conversation has no slot any more.
        """
        if self.closed:
            raise EngineError("this session is closed; create another one")

    def prepare(self) -> Iterator[None]:
        """Make the slot ready; before the first frame, and whenever `needs_start` says so.

        Yields after each model step, so that others can go on in between.
        """
        if self.brain.config.floor is not None:
            self.bank.frame.learn_silence()
        yield from self.bank.start(self.slot, self.setup)
        self.needs_start = False

    def order(self, given: FrameGiven) -> FloorOrder | None:
        """What the floor policy wants of the frame that is to be made; None without one."""
        if self.brain.config.floor is None:
            return None
        return self.brain.order(given.level_db)

    def steer(self, order: FloorOrder | None) -> Steer:
        """What the slot is made to do in the frame that is to be made; call it once for each."""
        steer = Steer() if order is None else _STEERS[order.move](order)
        if not self._quoting:
            return steer
        quotation = self._quotation
        if steer.muted:
            quotation.forget()
        token, confidence = quotation.following
        urge = quotation.urge
        return replace(
            steer, urge=max(steer.urge, urge), asks=steer.asks and not urge,
            favoured=token, favour=confidence * self._quoting,
        )  # fmt: skip

    def looks_ahead(self, order: FloorOrder | None, given: FrameGiven) -> bool:
        """Whether recognition is asked what has been said, without catching up."""
        asked = order is not None and order.looks_ahead
        return asked and self.flushes and given.heard is None and self._words is not None

    def wants_all_words(self, made: SlotFrame, given: FrameGiven) -> bool:
        """Whether recognition is to catch up in this frame."""
        asks = self.flushes and given.heard is None and self._words is not None
        return asks and self._text.is_trigger(made.sampled_text)

    def take(
        self,
        made: SlotFrame,
        given: FrameGiven,
        caught_up: Sequence[int] = (),
        ahead: Sequence[int] | None = None,
    ) -> ConversationFrame:
        """Let the brain have what its slot made of a frame.

        Args:
            caught_up: text tokens of recognition that has caught up with the audio.
            ahead: those that a look ahead found.

        Raises:
            SlotFault: the slot must be given up.
        """
        if not made.sane:
            raise SlotFault("the model's numbers are not finite")
        self.questions.hear(given.pcm)
        spoken = self._text.is_spoken(made.sampled_text)
        if self._quoting:
            ends = self._text.ends_sentence(made.sampled_text)
            self._quotation.hear(made.sampled_text if spoken else None, ends=ends)
        triggered = self._text.is_trigger(made.sampled_text)
        heard = given.heard or self._recognised(made)
        if ahead is not None:
            heard = replace(heard, ahead=self._words_ahead(ahead))
        heard = self._with_silence(heard, caught_up)
        frame = self.brain.frame + 1
        controls = [
            Report(WarningCode(notice.link.value), notice.detail) for notice in heard.notices
        ]
        outputs = self.brain.advance(
            FrameInput(
                frame=frame,
                user=self._user_frame(heard, given),
                model=self._model_frame(made),
                sampled_trigger=triggered,
                sampled_speech=spoken,
                controls=tuple(controls),
            )
        )
        return ConversationFrame(frame, self._carry_out(outputs), heard, made)

    def receive(self, given: Reply | Control, rows: Tensor | None = None) -> list[Output]:
        """Take what comes between two frames; `rows` [n, dim] belong to a `ReferenceEncoded`."""
        if isinstance(given, ReferenceEncoded):
            if rows is None or rows.shape != (given.rows, self.bank.dim):
                raise ValueError(f"a reference of {given.rows} rows came without its rows")
            _keep(self._parts, (given.sequence, given.part), rows)
        return self._carry_out(self.brain.receive(given))

    def save(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything the conversation is, as plain data and tensors; not while it `needs_start`."""
        data = {
            "brain": self.brain.snapshot(),
            "text": self._text.save(),
            "words": self._words.save() if self._words else None,
            "quotation": self._quotation.save(),
            "texts": [[*key, text] for key, text in self._texts.items()],
        }
        tensors = {f"slot.{path}": part for path, part in self.bank.pack(self.slot).items()}
        for (sequence, part), rows in self._parts.items():
            tensors[f"rows.{sequence}.{part}"] = rows.contiguous()
        return data, tensors

    def load(self, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Continue from `save`, in this or any other slot of the same model; takes no `prepare`."""
        self.brain = Conversation.restore(data["brain"])
        self._text.load(data["text"])
        self._quotation.load(data["quotation"])
        self._texts = {(sequence, part): text for sequence, part, text in data["texts"]}
        if self._words is not None and data["words"] is not None:
            self._words.load(data["words"])
        packed = {}
        for name, tensor in tensors.items():
            kind, _, path = name.partition(".")
            if kind == "slot" and (self.bank.recogniser or not path.startswith("stt.")):
                packed[path] = tensor
            elif kind == "rows":
                sequence, _, part = path.partition(".")
                self._parts[int(sequence), int(part)] = tensor
        self.bank.unpack(self.slot, packed)
        self.needs_start = False

    def _recognised(self, made: SlotFrame) -> Heard:
        if self._words is None or made.heard_text is None:
            return Heard()
        return self._numbered(self._words.push(made.heard_text, made.inactivity))

    def _numbered(self, heard: Heard) -> Heard:
        """The same, counted in the conversation's frames: an assembler begins anew at a reset.

        Its last frame is the one that the brain gets next.
        """
        assert self._words is not None
        if heard.transcribed_frame is None:
            return heard
        first_frame = self.brain.frame + 2 - self._words.frames
        return replace(heard, transcribed_frame=heard.transcribed_frame + first_frame)

    def _words_ahead(self, tokens: Sequence[int]) -> str:
        """Text of a look ahead."""
        bank, words = self.bank, self._words
        if bank.recogniser is None or words is None:
            return ""
        fork = bank.recogniser.assembler()
        fork.load(words.save())
        heard = [fork.push_silence(token) for token in tokens] + [fork.finish()]
        return "".join(word for one in heard for word in one.words)

    def _user_frame(self, heard: Heard, given: FrameGiven) -> UserFrame:
        """A recogniser's estimate that is no probability is none; it ends no conversation."""
        estimate = heard.inactivity
        if estimate is not None and not 0.0 <= estimate <= 1.0:
            estimate = None
        level_db = None if self.brain.config.floor is None else given.level_db
        return UserFrame(heard.words, estimate, heard.transcribed_frame, level_db, heard.ahead)

    def _with_silence(self, heard: Heard, caught_up: Sequence[int]) -> Heard:
        """The same with the words of all audio so far."""
        assembler = self._words
        if assembler is None:
            return heard
        for token in caught_up:
            later = self._numbered(assembler.push_silence(token))
            heard = replace(
                heard,
                words=heard.words + later.words,
                transcribed_frame=later.transcribed_frame,
                completed=heard.completed + later.completed,
            )
        return heard

    def _model_frame(self, made: SlotFrame) -> ModelFrame | None:
        if made.pcm is None:
            return None
        return ModelFrame(
            text=self._text.push(made.text),
            triggered=self._text.is_trigger(made.text),
            audio=made.pcm,
            level_db=None if self.brain.config.floor is None else frame_db(made.pcm),
        )

    def _carry_out(self, outputs: Sequence[Output]) -> list[Output]:
        """Do what concerns the slot, hand on the rest."""
        rest: list[Output] = []
        for output in outputs:
            if isinstance(output, InjectReference):
                self._inject(output)
                continue
            match output:
                case ConversationReset():
                    self._restart()
                case TurnStarted(role=Role.USER):
                    self.questions.begin_turn(self.brain.frame - output.frame)
                case EncodeReference() if self._quoting:
                    _keep(self._texts, (output.sequence, output.part), output.text)
                case StartLookup():
                    self.questions.begin_lookup(output.lookup)
            rest.append(output)
        return rest

    def _inject(self, command: InjectReference) -> None:
        bank = self.bank
        if not bank.model.takes_references:
            return
        rows = torch.zeros(command.rows, bank.dim)
        if command.kind is InjectionKind.REFERENCE:
            key = command.sequence, command.part
            rows = self._parts.pop(key)[: command.rows]
            text = self._texts.pop(key, "")
            self._quotation.offer(self._text.pieces(text), append=command.append)
        elif not command.append:
            self._quotation.forget()
        if command.kind is InjectionKind.LEARNT_PADDING and bank.absent_reference is not None:
            rows = bank.absent_reference
        bank.set_reference(self.slot, rows, append=command.append)
        for waiting in (self._parts, self._texts):
            for key in [key for key in waiting if key[0] < command.sequence]:
                del waiting[key]

    def _restart(self) -> None:
        self.needs_start = True
        self._parts.clear()
        self._texts.clear()
        self._quotation.forget()
        self._text.reset()
        self.questions.forget()
        if self.bank.recogniser is not None:
            self._words = self.bank.recogniser.assembler()


def _keep(waiting: dict[tuple[int, int], T], key: tuple[int, int], value: T) -> None:
    """Have something wait for its part of a reference; of too many, the oldest goes."""
    waiting[key] = value
    while len(waiting) > MAX_WAITING_PARTS:
        del waiting[next(iter(waiting))]


def advance(
    bank: SlotBank, given: Mapping[ConversationCore, FrameGiven]
) -> dict[ConversationCore, ConversationFrame | Exception]:
    """Make the next frame of these conversations in one batched step.

    What goes wrong with one conversation is its result, and no concern of the others. An error of
    the step itself is raised: then all of them are lost.
    """
    results: dict[ConversationCore, ConversationFrame | Exception] = {}
    for core, frame in given.items():
        if frame.told is not None:
            try:
                bank.tell(core.slot, frame.told)
            except EngineError as error:
                results[core] = error
    given = {core: frame for core, frame in given.items() if core not in results}
    orders = {core: core.order(frame) for core, frame in given.items()}
    steers = {core.slot: core.steer(order) for core, order in orders.items()}
    made = bank.step({core.slot: frame.pcm for core, frame in given.items()}, steers)
    ahead = _words_of(
        bank.look_ahead, [c.slot for c, f in given.items() if c.looks_ahead(orders[c], f)]
    )
    caught_up = _words_of(
        bank.flush, [c.slot for c, f in given.items() if c.wants_all_words(made[c.slot], f)]
    )
    for core, frame in given.items():
        try:
            results[core] = core.take(
                made[core.slot], frame, caught_up.get(core.slot, ()), ahead.get(core.slot)
            )
        except Exception as error:
            results[core] = error
    return results


_STEERS: dict[Move, Callable[[FloorOrder], Steer]] = {
    Move.FREE: lambda order: Steer(asks=order.asks),
    Move.HOLD: lambda order: Steer(held=True),
    Move.YIELD: lambda order: Steer(muted=True),
    Move.NUDGE: lambda order: Steer(urge=order.urge, asks=order.asks),
}


def _words_of(
    catch_up: Callable[[list[int]], dict[int, list[int]]], slots: list[int]
) -> dict[int, list[int]]:
    """Tokens of recognition that has caught up with these slots' audio.

    Where that fails nobody's conversation ends: the words come when they come.
    """
    try:
        return catch_up(slots)
    except Exception as error:
        logger.error("recognition cannot catch up: %s", type(error).__name__)
        return {}


def frame_digest(made: SlotFrame) -> str:
    """A short name of the exact bits of a frame, for logs that are replayed."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{made.text} {made.sampled_text} ".encode())
    if made.pcm is not None:
        digest.update(np.ascontiguousarray(made.pcm, "<f4").tobytes())
    return digest.hexdigest()
