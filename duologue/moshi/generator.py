"""Streaming generation: which token is fed and drawn when, for every slot of a batch.

The cache of token columns is a ring in the *delayed* time line: what is drawn at a slot's step s
is stored in column s + 1 as it is, and a frame comes out once the most delayed codebook has caught
up. Column 0 is the initial column, so the codes given at a slot's very first step never reach the
model (the arithmetic of the published LMGen; Moshi paper section 3.4.2).

Everything that a conversation is lies in `GeneratorState`: token ring, key/value caches, seeds,
settings, pending reference rows, forced tokens. Reset, snapshot and move slots through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from duologue.conditioning.provider import Attributes
from duologue.moshi.config import UNGENERATED, ZERO_TOKEN
from duologue.moshi.lm import MoshiLM
from duologue.moshi.sampling import Sampling, pooled, sample
from duologue.nn.state import KEEP, State, assign_active, tensor_field
from duologue.nn.transformer import TransformerState

MAX_REFERENCE_ROWS = 512
"""Most reference rows a slot can have pending: 41 s of injection. Further rows are an error."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: logits = null + (conditioned - null) * coefficient."""

    coefficient: float
    no_text: bool = False
    """The null half sees no text, and text logits are the conditioned ones."""
    masked_until: Tensor | None = None
    """[B] int64: the null half sees no tokens of a slot's first so many frames."""


@dataclass(frozen=True)
class StepHooks:
    """Callbacks inside a step, for programs that steer generation (delayed-streams TTS does)."""

    on_text_logits: Callable[[Tensor], Tensor] | None = None
    """[B, text classes] -> the same, before text is drawn."""
    on_text: Callable[[Tensor], Tensor] | None = None
    """int64 [B] drawn -> used."""
    on_audio: Callable[[Tensor], Tensor] | None = None
    """int64 [B, generated] drawn -> used, after the frame's last codebook."""


@dataclass
class SamplingState(State):
    """How each slot draws; settings, which a reset leaves alone."""

    temperature: Tensor = tensor_field(KEEP)
    top_k: Tensor = tensor_field(KEEP)
    pooled_from: Tensor = tensor_field(KEEP)


@dataclass
class ReferenceState(State):
    """Reference rows that wait for their frame."""

    rows: Tensor = tensor_field(0)
    """[B, MAX_REFERENCE_ROWS, dim]"""
    length: Tensor = tensor_field(0)
    """[B] int64"""
    position: Tensor = tensor_field(0)
    """[B] int64: the next row to add."""


@dataclass
class GeneratorState(State):
    """All that a conversation is to the language model."""

    text_sampling: SamplingState
    audio_sampling: SamplingState
    temporal: TransformerState
    offset: Tensor = tensor_field(0)
    """[B] int64: steps made."""
    tokens: Tensor = tensor_field(UNGENERATED)
    """int64 [B, 1 + n_q, ring]: token columns in the delayed time line."""
    forced: Tensor = tensor_field(UNGENERATED)
    """int64 [B, 1 + generated, max_delay + 1]: what coming steps must draw, the next one first."""
    seed: Tensor = tensor_field(KEEP)
    """[B] int64"""
    heard: Tensor | None = tensor_field(0, default=None)
    """[B, heard_dim]: what a recogniser told last."""
    sum_condition: Tensor | None = tensor_field(KEEP, default=None)
    """[B * branches, 1, dim], added to each input."""
    prepend: Tensor | None = tensor_field(KEEP, default=None)
    """[B * branches, P, dim], what a slot starts with."""
    reference: ReferenceState | None = None


@dataclass(frozen=True)
class StepOutput:
    """What one step gives. Rows of inactive slots hold `UNGENERATED` tokens and stale logits."""

    text: Tensor
    """int64 [B]: text token of the frame that is ready, delays undone."""
    audio: Tensor
    """int64 [B, generated]: its codes."""
    ready: Tensor
    """bool [B]: False while a slot's delays still fill, and for inactive slots."""
    sampled_text: Tensor
    """int64 [B]: drawn (or forced) in this step, up to max_delay frames ahead of `text`."""
    sampled_audio: Tensor
    """int64 [B, generated]"""
    text_logits: Tensor
    """[B, text classes], after guidance."""
    audio_logits: Tensor | None
    """[B, generated, card], after guidance; only if asked for."""
    extra_heads: list[Tensor]
    """Softmax of each extra head, [B, extra_heads_dim]."""


class FrameRunner(Protocol):
    """Another way to run `Generator.step` (compiled code) on the same state."""

    def step(
        self,
        generator: Generator,
        user_codes: Tensor | None,
        active: Tensor | None,
        text: Tensor | None,
        audio: Tensor | None,
        urge: Tensor | None,
        barred: Tensor | None,
        favoured: Tensor | None,
        favour: Tensor | None,
    ) -> StepOutput: ...

    @property
    def read_bytes(self) -> int:
        """Weights that a frame reads."""
        ...


class Generator:
    """Runs a model step by step for `batch_size` slots. Holds settings; `state` holds the rest."""

    def __init__(
        self,
        lm: MoshiLM,
        batch_size: int,
        *,
        sampling: Sampling | None = None,
        text: Sampling | None = None,
        audio: Sampling | None = None,
        seed: int | Sequence[int] = 0,
        conditions: Attributes | Sequence[Attributes] | None = None,
        null_conditions: Attributes | None = None,
        guidance: Guidance | None = None,
        generated_q: int | None = None,
        keep_audio_logits: bool = False,
    ) -> None:
        """
        Args:
            sampling: for text and audio alike; `text` and `audio` override it.
            seed: of each slot; one number gives slot b the seed + b.
            conditions: attributes for all slots, or one mapping per slot.
            null_conditions: attributes of guidance's null half; absent ones are learnt padding.
            generated_q: codebooks to generate, the model's default when `None`. The others are
                given with each step (PersonaPlex: the user's) or stay silent (-1; shorter TTS).
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} is not positive")
        config = lm.config
        self.lm, self.config, self.batch_size = lm, config, batch_size
        if generated_q is None:
            generated_q = lm.defaults.generated_q
        self.generated_q = config.dep_q if generated_q is None else generated_q
        if not 0 <= self.generated_q <= config.dep_q:
            raise ValueError(f"generated_q: {generated_q} is not between 0 and {config.dep_q}")
        if guidance is not None and guidance.coefficient == 1.0:
            guidance = None
        self.guidance = guidance
        self.keep_audio_logits = keep_audio_logits
        self._branches = 1 if guidance is None else 2
        self._delays = torch.tensor(config.delays, device=lm.device)
        self._initial = torch.tensor(
            [config.text_initial] + [config.audio_initial] * config.n_q, device=lm.device
        )
        self.state = self._init_state(batch_size)
        self.set_sampling(
            text=text or sampling or lm.defaults.text, audio=audio or sampling or lm.defaults.audio
        )
        self.set_seed(seed)
        self._apply_conditions(conditions, null_conditions)
        self._play_prepend(None)
        self.runner = None if lm.make_runner is None else lm.make_runner(self)

    @property
    def given_q(self) -> int:
        """Codebooks that each step takes from outside."""
        return self.config.n_q - self.generated_q

    @property
    def known_settings(self) -> tuple[int, int, bool]:
        """What a step knows of its slots' settings on the host.

        How many tokens it must sort for text and for audio (1 if all slots are greedy, 0 for all
        tokens), and whether any slot pools text tokens. Where a step is recorded to be replayed,
        this is what must not have changed.
        """
        return self._widest_text, self._widest_audio, self._pools_text

    def set_sampling(
        self,
        *,
        text: Sampling | None = None,
        audio: Sampling | None = None,
        mask: Tensor | None = None,
    ) -> None:
        """Change how the slots of `mask` [B] (all, when `None`) draw."""
        for setting, state in (
            (text, self.state.text_sampling),
            (audio, self.state.audio_sampling),
        ):
            if setting is not None:
                chosen = _all(mask, state.temperature)
                state.temperature.masked_fill_(chosen, setting.temperature)
                state.top_k.masked_fill_(chosen, setting.top_k)
                state.pooled_from.masked_fill_(chosen, setting.pooled_from)
        self.refresh_sampling()

    def refresh_sampling(self) -> None:
        """Re-read what must be known on the host; call after loading a state from outside."""
        self._widest_text = _widest(self.state.text_sampling)
        self._widest_audio = _widest(self.state.audio_sampling)
        self._pools_text = bool(self.state.text_sampling.pooled_from.any())

    def set_seed(self, seed: int | Sequence[int], mask: Tensor | None = None) -> None:
        """Give the slots of `mask` (all, when `None`) new seeds; an integer s means s + b."""
        seeds = range(seed, seed + self.batch_size) if isinstance(seed, int) else seed
        values = torch.tensor([s & 0x7FFFFFFFFFFFFFFF for s in seeds], device=self.lm.device)
        if values.shape != self.state.seed.shape:
            raise ValueError(f"seed: {len(values)} seeds for {self.batch_size} slots")
        assign_active(self.state.seed, values, mask)

    @torch.no_grad()
    def set_conditions(
        self, slot: int, given: Attributes, null_conditions: Attributes | None = None
    ) -> None:
        """Change one slot's conditions; a prepended one counts from the slot's next reset on."""
        fused = self.lm.condition_provider([given, null_conditions or {}][: self._branches])
        if fused.cross is not None:
            raise ValueError("cross-attended conditions are set for all slots, at construction")
        rows = slice(slot * self._branches, (slot + 1) * self._branches)
        for current, new in (
            (self.state.sum_condition, fused.sum),
            (self.state.prepend, fused.prepend),
        ):
            if current is not None and new is not None:
                current[rows] = new

    def reset(self, mask: Tensor | None = None) -> None:
        """Start the slots of `mask` [B] afresh (all, when `None`); others keep every bit."""
        self.state.reset(mask)
        self._play_prepend(mask)

    def set_reference(self, slot: int, rows: Tensor, *, append: bool = False) -> None:
        """Add `rows` [n, dim] to a slot's coming inputs, one per step.

        They replace what is pending (no rows cancel it) or, with `append`, follow it.
        """
        reference = self.state.reference
        if reference is None:
            raise ValueError("this model takes no references: it has no streaming_sum condition")
        if rows.dim() != 2 or rows.shape[1] != self.config.dim:
            raise ValueError(f"reference rows must be [n, {self.config.dim}], got {rows.shape}")
        if append:
            start, end = int(reference.position[slot]), int(reference.length[slot])
            rows = torch.cat([reference.rows[slot, start:end], rows.to(reference.rows)])
        if len(rows) > MAX_REFERENCE_ROWS:
            raise ValueError(f"{len(rows)} reference rows; at most {MAX_REFERENCE_ROWS} fit")
        reference.rows[slot] = 0
        reference.rows[slot, : len(rows)] = rows
        reference.length[slot] = len(rows)
        reference.position[slot] = 0

    def hear(self, vectors: Tensor, active: Tensor | None = None) -> None:
        """Tell the coming steps of the active slots what a recogniser makes of the user.

        Args:
            vectors: [B, heard_dim]; they hold until others are told.

        Raises:
            ValueError: the model takes none, or others.
        """
        heard = self.state.heard
        if heard is None:
            raise ValueError("this model does not listen to a recogniser")
        if vectors.shape != heard.shape:
            raise ValueError(f"heard: [B, {heard.shape[1]}] is wanted, got {tuple(vectors.shape)}")
        assign_active(heard, vectors.to(heard.dtype), active)

    def added(self) -> Tensor | None:
        """What the coming step adds to tokens and references: [B, 1, dim], B rows of each half."""
        state = self.state
        if state.heard is None:
            return state.sum_condition
        heard = self.lm.hearing(state.heard.to(self.lm.dtype)).float()
        if self.guidance is not None:
            heard = heard.repeat_interleave(2, 0)
        if state.sum_condition is not None:
            heard = heard + state.sum_condition[:, 0]
        return heard[:, None]

    def force(
        self,
        text: Tensor | None = None,
        audio: Tensor | None = None,
        active: Tensor | None = None,
    ) -> None:
        """Make the coming frame's tokens these, each at the step at which its delay lets it out.

        Args:
            text: int64 [B]; `audio`: int64 [B, generated]. `UNGENERATED` leaves a token free.
        """
        queue = self.state.forced
        for first, values in ((0, None if text is None else text[:, None]), (1, audio)):
            if values is None:
                continue
            rows = torch.arange(first, first + values.shape[1], device=queue.device)
            current = queue[:, rows, self._delays[rows]]
            chosen = values != UNGENERATED
            if active is not None:
                chosen &= active[:, None]
            queue[:, rows, self._delays[rows]] = torch.where(chosen, values, current)

    @torch.no_grad()
    def step(
        self,
        user_codes: Tensor | None = None,
        active: Tensor | None = None,
        *,
        text: Tensor | None = None,
        audio: Tensor | None = None,
        urge: Tensor | None = None,
        barred: Tensor | None = None,
        favoured: Tensor | None = None,
        favour: Tensor | None = None,
        hooks: StepHooks | None = None,
    ) -> StepOutput:
        """Advance the active slots by one frame.

        Args:
            user_codes: int64 [B, given_q, 1], or more rows, of which the first are taken; -1 means
                no input. `None` when all is silent (-1).
            active: bool [B]; `None` for all.
            text: int64 [B] to use in place of drawn text; `UNGENERATED` entries are drawn.
            audio: int64 [B, generated], likewise, in the delayed time line (unlike `force`).
            urge: float32 [B], how much a slot is to say something: taken off the logit of text
                padding before text is drawn. `text_logits` stay as the model has them; 0 changes
                no bit.
            barred: bool [B], slots that draw no retrieval token.
            favoured: int64 [B], a text piece that is favoured where text is drawn pooled: which of
                all is said is chosen as if its logit were greater by `favour` float32 [B]. Both or
                none are given; a favour of 0 changes no bit.
        """
        if active is not None and active.shape != (self.batch_size,):
            raise ValueError(f"active must be [{self.batch_size}], got {tuple(active.shape)}")
        self._check_given(user_codes)
        if self.runner is not None and hooks is None:
            return self.runner.step(
                self, user_codes, active, text, audio, urge, barred, favoured, favour
            )
        state = self.state
        self._write_given(user_codes, active)
        column = self._input_column(active)
        z, text_logits = self._temporal(column, active)
        if hooks and hooks.on_text_logits:
            text_logits = hooks.on_text_logits(text_logits)
        forced = state.forced[..., 0]
        drawn = _use_forced(
            self._draw_text(text_logits, urge, barred, favoured, favour), forced[:, 0], text
        )
        if hooks and hooks.on_text:
            drawn = hooks.on_text(drawn)
        codes, audio_logits = self._depth(z, drawn, forced[:, 1:], audio)
        if hooks and hooks.on_audio:
            codes = hooks.on_audio(codes)
        self._commit(drawn, codes, active)
        frame, ready = self._ready_frame(active)
        half = self.batch_size if self.guidance else None
        return StepOutput(
            text=frame[:, 0],
            audio=frame[:, 1:],
            ready=ready,
            sampled_text=drawn,
            sampled_audio=codes,
            text_logits=text_logits,
            audio_logits=audio_logits,
            extra_heads=[head[:half] for head in self.lm.extra(z)],
        )

    @torch.no_grad()
    def step_embedding(self, x: Tensor, active: Tensor | None = None) -> None:
        """Advance by an input vector [B, dim] in place of a token column (saved voices).

        Nothing is drawn: the column's tokens are left ungenerated, and the caller must provide
        those that a later step reads (`write_column`).
        """
        if self.guidance is not None:
            raise ValueError("a saved voice cannot be replayed under guidance")
        self.lm.transformer.step(x[:, None].to(self.lm.dtype), self.state.temporal, active)
        assign_active(self.state.offset, self.state.offset + 1, active)

    def write_column(self, ahead: int, tokens: Tensor, active: Tensor | None = None) -> None:
        """Store tokens [B, 1 + n_q] in the column `ahead` steps from the one read next."""
        ring = self.state.tokens
        index = ((self.state.offset + ahead) % ring.shape[2])[:, None, None]
        index = index.expand(-1, ring.shape[1], 1)
        current = ring.gather(2, index)
        chosen = tokens[..., None] != UNGENERATED
        if active is not None:
            chosen &= active[:, None, None]
        ring.scatter_(2, index, torch.where(chosen, tokens[..., None], current))

    def _init_state(self, slots: int) -> GeneratorState:
        config, device = self.config, self.lm.device
        ring = config.max_delay + 2

        def sampling() -> SamplingState:
            whole = _zeros(slots, device)
            return SamplingState(torch.zeros(slots, device=device), whole, whole.clone())

        reference = None
        if self.lm.condition_provider.fuser.streaming_sum:
            rows = torch.zeros(
                slots, MAX_REFERENCE_ROWS, config.dim, device=device, dtype=self.lm.dtype
            )
            zeros = _zeros(slots, device)
            reference = ReferenceState(rows, zeros, zeros.clone())
        queue = (slots, 1 + self.generated_q, config.max_delay + 1)
        return GeneratorState(
            offset=_zeros(slots, device),
            tokens=torch.full((slots, 1 + config.n_q, ring), UNGENERATED, device=device),
            forced=torch.full(queue, UNGENERATED, device=device),
            seed=_zeros(slots, device),
            heard=None
            if not config.heard_dim
            else torch.zeros(slots, config.heard_dim, device=device),
            text_sampling=sampling(),
            audio_sampling=sampling(),
            temporal=self.lm.transformer.init_state(
                slots, branches=self._branches, device=device, dtype=self.lm.dtype
            ),
            reference=reference,
        )

    @torch.no_grad()
    def _apply_conditions(
        self, given: Attributes | Sequence[Attributes] | None, null: Attributes | None
    ) -> None:
        provider = self.lm.condition_provider
        if given is None or isinstance(given, Sequence):
            wanted = list(given or [{}] * self.batch_size)
        else:
            wanted = [given] * self.batch_size
        if len(wanted) != self.batch_size:
            raise ValueError(f"conditions: {len(wanted)} mappings for {self.batch_size} slots")
        rows = [a for one in wanted for a in (one, null or {})[: self._branches]]
        fused = provider(rows)
        if fused.sum is not None:
            self.state.sum_condition = fused.sum
        if fused.cross is not None:
            self.lm.transformer.set_condition(self.state.temporal, fused.cross.to(self.lm.dtype))
        if fused.prepend is not None:
            self.state.prepend = fused.prepend

    @torch.no_grad()
    def _play_prepend(self, mask: Tensor | None) -> None:
        if self.state.prepend is not None:
            x = self.state.prepend.to(self.lm.dtype)
            self.lm.transformer.step(x, self.state.temporal, mask)

    def _check_given(self, user_codes: Tensor | None) -> None:
        given = self.given_q
        if user_codes is None or not given:
            return
        if user_codes.dim() != 3 or user_codes.shape[0] != self.batch_size:
            raise ValueError(
                f"user_codes must be [{self.batch_size}, {given}, 1], got {tuple(user_codes.shape)}"
            )
        if user_codes.shape[1] < given or user_codes.shape[2] != 1:
            raise ValueError(
                f"a step takes one frame of {given} codes, got {tuple(user_codes.shape[1:])}"
            )

    def _write_given(self, user_codes: Tensor | None, active: Tensor | None) -> None:
        given = self.given_q
        if not given:
            return
        state, ring = self.state, self.state.tokens.shape[2]
        if user_codes is None:
            user_codes = torch.full((self.batch_size, given, 1), ZERO_TOKEN, device=self.lm.device)
        rows = state.tokens[:, 1 + self.generated_q :]
        delays = self._delays[1 + self.generated_q :]
        index = ((state.offset[:, None] + delays) % ring)[..., None]
        value = user_codes[:, :given]
        if active is not None:
            value = torch.where(active[:, None, None], value, rows.gather(2, index))
        rows.scatter_(2, index, value)

    def _input_column(self, active: Tensor | None) -> Tensor:
        """Column that the model reads next, int64 [B, 1 + n_q]."""
        state = self.state
        index = (state.offset % state.tokens.shape[2])[:, None, None]
        column = state.tokens.gather(2, index.expand(-1, state.tokens.shape[1], 1))[..., 0]
        initial = state.offset[:, None] <= self._delays
        if active is not None:
            initial = initial | ~active[:, None]
        return torch.where(initial, self._initial, column)

    def _temporal(self, column: Tensor, active: Tensor | None) -> tuple[Tensor, Tensor]:
        """Normalised vectors [rows, dim], conditioned half first, and text logits [B, classes]."""
        state, lm = self.state, self.lm
        columns = column if self.guidance is None else self._with_null(column)
        x = lm.embed(columns[..., None])
        added = self.added()
        if added is not None:
            x = x + added.to(x.dtype)
        if state.reference is not None:
            row = self._next_reference_row(state.reference, active)
            x = x + (row if self.guidance is None else row.repeat_interleave(2, 0))[:, None]
        z, logits = lm.head(lm.transformer.step(x, state.temporal, active)[:, 0])
        guided = self._guide(logits, text=True)
        if self.guidance is not None:
            z = torch.cat([z[0::2], z[1::2]])
        return z, guided

    def _with_null(self, column: Tensor) -> Tensor:
        """Rows of both halves, slot by slot: [2 B, 1 + n_q]."""
        assert self.guidance is not None
        null = column
        fresh = column == self._initial
        if self.guidance.masked_until is not None:
            until = self._delays + self.guidance.masked_until[:, None]
            hidden = (self.state.offset[:, None] <= until) & ~fresh
            null = torch.where(hidden, ZERO_TOKEN, null)
        if self.guidance.no_text:
            text = torch.where(fresh[:, :1], null[:, :1], ZERO_TOKEN)
            null = torch.cat([text, null[:, 1:]], dim=1)
        return torch.stack([column, null], dim=1).flatten(0, 1)

    def _guide(self, logits: Tensor, *, text: bool, interleaved: bool = True) -> Tensor:
        if self.guidance is None:
            return logits
        given, null = (logits[0::2], logits[1::2]) if interleaved else logits.chunk(2)
        if text and self.guidance.no_text:
            return given
        return null + (given - null) * self.guidance.coefficient

    def _next_reference_row(self, reference: ReferenceState, active: Tensor | None) -> Tensor:
        """Take each active slot's next pending row, zeros where there is none: [B, dim]."""
        pending = reference.position < reference.length
        if active is not None:
            pending = pending & active
        at = reference.position.clamp(max=reference.rows.shape[1] - 1)
        row = reference.rows.gather(1, at[:, None, None].expand(-1, 1, reference.rows.shape[2]))[
            :, 0
        ]
        reference.position.add_(pending)
        return torch.where(pending[:, None], row, torch.zeros_like(row))

    def _draw_text(
        self,
        logits: Tensor,
        urge: Tensor | None,
        barred: Tensor | None,
        favoured: Tensor | None,
        favour: Tensor | None,
    ) -> Tensor:
        state = self.state
        how = state.text_sampling
        if urge is not None:
            logits = logits.float().clone()
            logits[:, self.config.existing_text_padding_id] -= urge
        if barred is not None and (asks := self.config.rag_token_id) is not None:
            logits = logits.float().clone()
            logits[:, asks].masked_fill_(barred, float("-inf"))
        if self._pools_text:
            logits = pooled(logits, how.pooled_from, favoured, favour)
        return sample(
            logits, how.temperature, how.top_k, state.seed, state.offset, 0,
            widest=self._widest_text,
        )  # fmt: skip

    def _depth(
        self, z: Tensor, text: Tensor, forced: Tensor, given: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Draw the codes of one frame: int64 [B, generated], and their logits if kept."""
        lm, state, how = self.lm, self.state, self.state.audio_sampling
        if not self.generated_q:
            return text.new_empty(self.batch_size, 0), None
        scratch = lm.depformer.scratch(z.shape[0], z)
        previous = text
        codes, kept = [], []
        for k in range(self.generated_q):
            rows = previous if self.guidance is None else previous.repeat(2)
            logits = self._guide(lm.depth_step(z, rows, k, scratch), text=False, interleaved=False)
            previous = sample(
                logits, how.temperature, how.top_k, state.seed, state.offset, 1 + k,
                widest=self._widest_audio,
            )  # fmt: skip
            previous = _use_forced(previous, forced[:, k], None if given is None else given[:, k])
            codes.append(previous)
            if self.keep_audio_logits:
                kept.append(logits)
        return torch.stack(codes, dim=1), torch.stack(kept, dim=1) if kept else None

    def _commit(self, text: Tensor, codes: Tensor, active: Tensor | None) -> None:
        """Store what was drawn in the next column and move on."""
        state = self.state
        ring, drawn = state.tokens, torch.cat([text[:, None], codes], dim=1)
        assign_active(state.offset, state.offset + 1, active)
        index = (state.offset % ring.shape[2])[:, None, None].expand(-1, drawn.shape[1], 1)
        value = drawn[..., None]
        if active is not None:
            value = torch.where(active[:, None, None], value, ring.gather(2, index))
        ring.scatter_(2, index, value)
        shifted = torch.nn.functional.pad(state.forced[..., 1:], (0, 1), value=UNGENERATED)
        assign_active(state.forced, shifted, active)

    def _ready_frame(self, active: Tensor | None) -> tuple[Tensor, Tensor]:
        """The frame whose codebooks have all caught up: int64 [B, 1 + generated], bool [B]."""
        state, config = self.state, self.config
        rows = 1 + self.generated_q
        index = state.offset[:, None] - config.max_delay + self._delays[:rows]
        frame = state.tokens[:, :rows].gather(2, (index % state.tokens.shape[2])[..., None])
        ready = state.offset > config.max_delay
        if active is not None:
            ready = ready & active
        return torch.where(ready[:, None], frame[..., 0], UNGENERATED), ready


def _zeros(slots: int, device: torch.device) -> Tensor:
    return torch.zeros(slots, dtype=torch.int64, device=device)


def _use_forced(drawn: Tensor, queued: Tensor, given: Tensor | None) -> Tensor:
    """What the caller gave, else what was queued, else what was drawn."""
    used = torch.where(queued != UNGENERATED, queued, drawn)
    return used if given is None else torch.where(given != UNGENERATED, given, used)


def _all(mask: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones_like(like, dtype=torch.bool) if mask is None else mask


def _widest(state: SamplingState) -> int:
    """Most tokens that any slot keeps: 1 if all are greedy, 0 if some slot keeps all.

    Rounded up to a power of two, so that there are few different steps.
    """
    greedy = state.temperature <= 0
    if bool(greedy.all()):
        return 1
    limits = state.top_k.masked_fill(greedy, 1)
    return 0 if bool((limits == 0).any()) else 1 << (int(limits.max()) - 1).bit_length()
