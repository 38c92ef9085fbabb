"""The slots of a model: one batched step makes the next frame of every slot that has one.

    bank = SlotBank(model, slots=4)
    for _ in bank.start(2, SlotSetup(seed=7)): ...       # fresh, or after a prompt
    frames = bank.step({0: pcm, 2: pcm})                 # float32 [1920] each -> SlotFrame each

A slot's results depend on its own frames and settings alone, to the bit: the batch always has the
same shape, slots without a frame stand still, and a slot whose numbers go bad is told so and harms
nobody. What a step does on the device is `duologue.engine.frame`; how that runs, called or as a
captured graph, is `duologue.runtime.graph`. For one thread at a time; knows no dialogue.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.conditioning.provider import SPEAKERS
from duologue.engine.api import UNSTEERED, EngineError, Steer, Wording
from duologue.engine.frame import COLUMNS, CONTROLS, BankFrame
from duologue.engine.model import LoadedModel
from duologue.engine.packing import pack_slot, unpack_slot
from duologue.moshi.config import UNGENERATED
from duologue.moshi.prompt import Prompt, prompt_steps
from duologue.runtime.frame_choice import frame_maker
from duologue.runtime.graph import CapturedFrames, EagerFrames, Recorder

if TYPE_CHECKING:
    from duologue.conditioning.provider import Attributes
    from duologue.mimi.codec import MimiState
    from duologue.moshi.lm import MoshiLM
    from duologue.moshi.sampling import Sampling
    from duologue.stt.ports import Drawn, LocalRecogniser

MAX_PROMPTS = 8
"""Prompted starts kept for the next session with the same prompt; the least recently used go."""


@dataclass(frozen=True)
class SlotPrompt:
    """A voice and role to start with; equal keys mean equal prompts."""

    key: str
    prompt: Prompt


@dataclass(frozen=True)
class SlotSetup:
    """How a slot's conversation starts. `None` means the model's own way."""

    seed: int = 0
    text: Sampling | None = None
    audio: Sampling | None = None
    init_speaker: str = "model"
    prompt: SlotPrompt | None = None
    wording: Wording = UNSTEERED


@dataclass(frozen=True)
class SlotFrame:
    """What one step gives for one slot."""

    pcm: NDArray[np.float32] | None
    """float32 [frame_size], None while delays fill."""
    text: int
    """Text token of the same frame, `UNGENERATED` while delays fill."""
    sampled_text: int
    """Text token drawn in this step: that of a frame or so later."""
    sane: bool
    """False when logits or samples are not finite: the slot must be given up."""
    heard_text: int | None = None
    """Token that local speech recognition drew, None without one."""
    inactivity: float | None = None
    """Its estimate that the user is silent."""
    told: NDArray[np.float32] | None = None
    """What the model was told of the user [heard_dim], if it listens to the recogniser."""


class SlotBank:
    """See the module."""

    def __init__(
        self,
        model: LoadedModel,
        slots: int,
        *,
        gate_db: float | None = -65.0,
        recogniser: LocalRecogniser[Any] | None = None,
        runtime: str = "auto",
    ) -> None:
        """See `set_runtime` for `runtime`."""
        self.model, self.slots, self.recogniser = model, slots, recogniser
        self.frame = BankFrame(model, slots, gate_db, recogniser)
        self.duplex, self.state = self.frame.duplex, self.frame.state
        self.frame_size = model.codec.frame_size
        self._prompted: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self.frames, self.openings = self._runners(runtime)

    def set_runtime(self, runtime: str, recorder: Recorder | None = None) -> None:
        """Have the steps run this way from now on: "auto", "eager" or "graph".

        Where a graph is used ("auto": on CUDA devices), it is made with the first step, and anew
        when what it holds has changed; conversations go on from one runtime to the other.

        Args:
            recorder: what makes graphs, if not CUDA.

        Raises:
            RuntimeUnavailable: a graph was asked for by name, and the device has none.
        """
        self.frames, self.openings = self._runners(runtime, recorder)

    def _runners(
        self, runtime: str, recorder: Recorder | None = None
    ) -> tuple[EagerFrames, EagerFrames]:
        """What runs the frames, and the first steps of fresh slots."""
        make = frame_maker(runtime, self.model.device, self.frame.baked, recorder)
        frames = make(self.frame.advance, self.frame.size)
        self.frame.steers_all = isinstance(frames, CapturedFrames)
        return frames, make(self.frame.open, self.slots)

    @property
    def gate_db(self) -> float | None:
        """Frames of the user below this power are heard as digital silence."""
        return self.frame.gate_db

    @property
    def dim(self) -> int:
        """Width of reference rows."""
        return self.model.lm.config.dim

    # A frame.

    def step(
        self,
        frames: Mapping[int, NDArray[np.float32]],
        steers: Mapping[int, Steer] | None = None,
    ) -> dict[int, SlotFrame]:
        """Advance the slots that have a frame [frame_size] of the user's audio by one frame.

        Args:
            steers: what some of them are made to do in it.
        """
        inputs = self.frames.inputs.zero_().numpy()
        pcm = inputs[: self.frame.samples].reshape(self.slots, self.frame_size)
        controls = inputs[self.frame.samples :].reshape(CONTROLS, self.slots)
        for slot, frame in frames.items():
            pcm[slot] = frame
            controls[0, slot] = 1
        for slot, steer in (steers or {}).items():
            controls[1:, slot] = (
                steer.held, steer.muted, not steer.asks, steer.urge, steer.favoured, steer.favour,
            )  # fmt: skip
            if steer.muted:
                self.frame.learn_silence()
        rows = self.frames.run().numpy()
        return {slot: self._frame(rows[slot]) for slot in frames}

    def _frame(self, row: NDArray[np.float32]) -> SlotFrame:
        end = self.frame_size + COLUMNS
        ready, text, sampled, sane, heard_text, inactivity = row[self.frame_size : end].tolist()
        heard = self.recogniser is not None
        return SlotFrame(
            pcm=row[: self.frame_size].copy() if ready else None,
            text=int(text) if ready else UNGENERATED,
            sampled_text=int(sampled),
            sane=bool(sane),
            heard_text=int(heard_text) if heard else None,
            inactivity=inactivity if heard and math.isfinite(inactivity) else None,
            told=row[end:].copy() if len(row) > end else None,
        )

    def tell(self, slot: int, told: NDArray[np.float32]) -> None:
        """Tell the model in a slot what a recogniser made of the user's next frame (a log's
        `SlotFrame.told`), where none is here to do it.

        Raises:
            EngineError: the model listens to no recogniser, or to one of another width.
        """
        wanted = self.model.lm.config.heard_dim
        if wanted is None:
            raise EngineError("this model does not listen to a recogniser: it cannot be told")
        if told.shape != (wanted,):
            raise EngineError(f"told: [{wanted}] is wanted, got {list(told.shape)}")
        rows = torch.zeros(self.slots, wanted)
        rows[slot] = torch.from_numpy(told)
        self.duplex.generator.hear(rows.to(self.model.device), self._mask(slot))

    @torch.no_grad()
    def look_ahead(self, slots: Collection[int]) -> dict[int, list[int]]:
        """What `flush` would give for some slots; recognition goes on as if nobody had asked."""
        state, chosen = self.state.stt, sorted(slots)
        if self.recogniser is None or state is None or not chosen:
            return {}
        encoder = self._encoder()
        drawn = self.recogniser.flush(
            state.select(chosen), None, None if encoder is None else encoder.select(chosen)
        )
        return dict(zip(chosen, _tokens(drawn), strict=True))

    @torch.no_grad()
    def flush(self, slots: Collection[int]) -> dict[int, list[int]]:
        """Have local recognition catch up with some slots' audio at once: text tokens, in order.

        Takes as many steps of the recogniser as it is behind, so live conversations have time for
        it only where these are quick (see `measure_flush`); empty without a recogniser.
        """
        if self.recogniser is None or self.state.stt is None or not slots:
            return {}
        drawn = self.recogniser.flush(self.state.stt, self._mask(*slots), self._encoder())
        tokens = _tokens(drawn)
        return {slot: tokens[slot] for slot in slots}

    def _encoder(self) -> MimiState | None:
        """State of the codec whose codes the recogniser reads."""
        return self.duplex.state.codec if self.frame.shares_codes else None

    # A slot's life.

    @torch.no_grad()
    def start(self, slot: int, setup: SlotSetup) -> Iterator[None]:
        """Make a slot ready for its first frame; yields after each model step that this takes.

        A fresh slot makes its first step here, whose input never reaches the model anyway, so that
        nothing of the user's first frame is lost. A prompt takes as many steps as it has frames
        the first time, and one copy from then on.
        """
        mask, generator = self._mask(slot), self.duplex.generator
        if conditions := speaker_condition(self.model.lm, setup.init_speaker):
            generator.set_conditions(slot, conditions)
        self.reset(slot)
        self._configure(slot, setup)
        if setup.prompt is None:
            self.openings.inputs.zero_()[slot] = 1
            self.openings.run()
            yield
            return
        key = f"{setup.init_speaker}\n{setup.prompt.key}"
        known = self._prompted.get(key)
        if known is not None:
            self._prompted.move_to_end(key)
            self.unpack(slot, known)
            self._configure(slot, setup)
            yield
            return
        yield from prompt_steps(
            generator, setup.prompt.prompt, mask, frame_rate=self.model.codec.frame_rate
        )
        self._prompted[key] = self.pack(slot)
        while len(self._prompted) > MAX_PROMPTS:
            self._prompted.popitem(last=False)

    def reset(self, slot: int) -> None:
        """Make a slot fresh; the others keep every bit."""
        mask = self._mask(slot)
        self.duplex.reset(mask)
        self.frame.steering.state.reset(mask)
        if self.recogniser is not None:
            self.recogniser.reset(self.state.stt, mask)

    def set_reference(self, slot: int, rows: Tensor, *, append: bool = False) -> None:
        """Add rows [n, dim] to the slot's next frames; see `Generator.set_reference`."""
        rows = rows.to(self.model.device, self.model.lm.dtype)
        self.duplex.generator.set_reference(slot, rows, append=append)

    @property
    def absent_reference(self) -> Tensor | None:
        """The learnt row [1, dim] that stands for "nothing was found", if the model has one."""
        reference = self.model.lm.condition_provider.reference
        return None if reference is None else reference.absent

    def pack(self, slot: int) -> dict[str, Tensor]:
        """A slot's state on the CPU, for `unpack` into any slot of the same model."""
        return pack_slot(self.state, slot)

    def unpack(self, slot: int, packed: dict[str, Tensor]) -> None:
        """Continue from a packed state.

        Raises:
            StateError: it is not one of this model's; nothing has been changed.
        """
        unpack_slot(self.state, slot, packed)
        self.duplex.generator.refresh_sampling()
        self.frame.steering.refresh()

    def measure(
        self, steps: int = 3, clock: Callable[[], float] = time.perf_counter
    ) -> tuple[float, float]:
        """Seconds of a step with one slot busy and with all, best of some; all slots are reset."""
        silence = np.zeros(self.frame_size, np.float32)
        alone, together = (
            _best_of(steps, partial(self.step, dict.fromkeys(busy, silence)), clock)
            for busy in (range(1), range(self.slots))
        )
        for slot in range(self.slots):
            self.reset(slot)
        return alone, together

    def measure_flush(
        self, times: int = 2, clock: Callable[[], float] = time.perf_counter
    ) -> float | None:
        """Seconds of `look_ahead` for all slots, best of some; `None` without a recogniser."""
        if self.recogniser is None:
            return None
        return _best_of(times, partial(self.look_ahead, range(self.slots)), clock)

    def _configure(self, slot: int, setup: SlotSetup) -> None:
        generator, mask = self.duplex.generator, self._mask(slot)
        defaults = self.model.lm.defaults
        generator.set_seed([setup.seed] * self.slots, mask)
        generator.set_sampling(
            text=setup.text or defaults.text, audio=setup.audio or defaults.audio, mask=mask
        )
        self.frame.steering.configure(mask, setup.wording)

    def _mask(self, *slots: int) -> Tensor:
        mask = torch.zeros(self.slots, dtype=torch.bool)
        mask[list(slots)] = True
        return mask.to(self.model.device)


def _tokens(drawn: Sequence[Drawn]) -> list[list[int]]:
    """Text tokens of each slot, in order."""
    tokens: list[list[int]] = torch.stack([one.text for one in drawn], dim=1).cpu().tolist()
    return tokens


def speaker_condition(lm: MoshiLM, init_speaker: str) -> Attributes:
    """The condition that tells a model who speaks first; empty for models without one."""
    wanted = SPEAKERS[init_speaker]
    for name, conditioner in lm.condition_provider.conditioners.items():
        if wanted in (getattr(conditioner, "possible_values", None) or ()):
            return {name: wanted}
    return {}


def _best_of(times: int, work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the quickest run of some work."""
    took = []
    for _ in range(times):
        begin = clock()
        work()
        took.append(clock() - begin)
    return min(took)
