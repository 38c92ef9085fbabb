"""A delayed-streams recogniser: hears a frame at a time, writes text some frames behind.

The model is a `MoshiLM` that generates no audio: each step reads one frame and the text token of
the step before, and takes the likeliest text token (arXiv 2509.08753; the arithmetic of the
published generator with its first frame given twice, so that no frame is lost). Extra heads tell
pauses. A frame is read as the codec's codes, by the published 1B and 2.6B models, or as the vector
of a front end of the recogniser's own (`front_end`), by wren's.

It may follow several hypotheses of what is being said (`duologue.stt.beam`), as wren's does; the
published ones take the likeliest token of each step.

Everything that a conversation is lies in `RecogniserState`. A fresh slot has read the initial
column and the silence that the model wants before its audio; that is worked out once and copied
into slots, so beginning a conversation costs no step and disturbs no other.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from duologue.checkpoints.tokenizer import TextTokenizer
from duologue.errors import DuologueError
from duologue.mimi.codec import EncoderState, Mimi, MimiState
from duologue.moshi.config import UNGENERATED
from duologue.moshi.lm import MoshiLM, Reading
from duologue.nn.state import State, assign_active, over_rows, tensor_field
from duologue.nn.transformer import TransformerState
from duologue.stt.beam import Beam, BeamConfig, BeamState, reorder
from duologue.stt.biasing import AMONG_HYPOTHESES, BiasState, BiasTrie, BiasWeights
from duologue.stt.front_end import FrontEnd, MelFrontEnd, MelFrontEndState
from duologue.stt.ports import FRAME_SIZE, SAMPLE_RATE, Drawn
from duologue.stt.words import CONTROL_TOKENS, WordAssembler, frames_behind

PAUSE_HEAD = 2
"""The published choice: no voice for two seconds. Models with fewer heads use their last."""
FLUSH_MARGIN_FRAMES = 1


class RecogniserError(DuologueError, ValueError):
    """A model cannot be used as a recogniser, or was given what it cannot hear."""


@dataclass
class RecogniserState(State):
    """All that a conversation is to a recogniser. Without a beam a slot has one row."""

    temporal: TransformerState
    """One row for each hypothesis."""
    text: Tensor = tensor_field(0)
    """int64 [rows]: token drawn last, which the next step reads."""
    front_end: EncoderState | MelFrontEndState | None = None
    """`None` when it is given codes."""
    bias: BiasState | None = None
    """One row for each hypothesis."""
    beam: BeamState | None = None


class Recogniser:
    """Recognises a batch of conversations, one frame at a step. See `stt.ports.LocalRecogniser`."""

    def __init__(
        self,
        lm: MoshiLM,
        front_end: Mimi | MelFrontEnd,
        tokenizer: TextTokenizer,
        *,
        delay_s: float,
        prefix_s: float = 0.0,
        vocabulary: Iterable[str] | None = None,
        weights: BiasWeights | None = None,
        beam: BeamConfig | None = None,
    ) -> None:
        """
        Args:
            front_end: the codec whose codes the model reads, or what stands in its place.
            delay_s: seconds that text is behind the audio (`audio_delay_seconds`).
            prefix_s: silence that the model hears before each conversation
                (`audio_silence_prefix_seconds`).
            vocabulary: words and phrases to lean towards, the most telling first; one that is
                empty now may be set later, with `None` it never leans.
            beam: follow several hypotheses; words then come so much later (`delay_s`).

        Raises:
            RecogniserError: the parts do not fit together.
        """
        _check(lm, front_end, tokenizer, delay_s, prefix_s)
        self.lm, self.tokenizer = lm, tokenizer
        self.front_end: FrontEnd = front_end
        self._reader = lm.reader()
        self._model_delay_s = delay_s
        padding = lm.config.existing_text_padding_id
        self.silent_tokens = frozenset({*CONTROL_TOKENS, padding})
        """Those that are no text."""
        self.beam = None if beam is None else Beam(beam, self.silent_tokens, padding)
        self._leans = vocabulary is not None
        self.bias: BiasTrie | None = None
        self._weights = weights or (BiasWeights() if beam is None else AMONG_HYPOTHESES)
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)
        with torch.no_grad():
            self._condition = lm.condition_provider([{}]).sum
        self._fresh = self._make_fresh(math.ceil(prefix_s * front_end.frame_rate))

    @property
    def sample_rate(self) -> int:
        return self.front_end.sample_rate

    @property
    def frame_size(self) -> int:
        return self.front_end.frame_size

    @property
    def frame_rate(self) -> float:
        return self.front_end.frame_rate

    @property
    def num_codebooks(self) -> int:
        """Codes per frame that it hears; none with a front end of its own."""
        return self.lm.config.n_q

    @property
    def dim(self) -> int:
        """Numbers in `Drawn.vector`."""
        return self.lm.config.dim

    @property
    def leans(self) -> bool:
        """Whether it was made with a vocabulary, be it an empty one."""
        return self._leans

    @property
    def wait_frames(self) -> int:
        """Of the delay, the frames in which hypotheses stay open."""
        return 0 if self.beam is None else self.beam.config.wait

    @property
    def delay_s(self) -> float:
        """Seconds by which words come after the audio."""
        return self._model_delay_s + self.wait_frames / self.frame_rate

    @property
    def delay_frames(self) -> int:
        """Frames by which words come after the audio: the first whole number not below."""
        return frames_behind(self._model_delay_s, self.frame_rate) + self.wait_frames

    @property
    def flush_frames(self) -> int:
        """Frames of silence after which the words before them are out (published rule)."""
        return self.delay_frames + FLUSH_MARGIN_FRAMES

    def hears_codes_of(self, codec: Mimi) -> bool:
        """Whether that codec's codes are those of the recogniser's own: same shape and weights."""
        mine, theirs = self.front_end, codec
        if mine is theirs:
            return True
        if not isinstance(mine, Mimi) or mine.config != theirs.config:
            return False
        weights = theirs.state_dict()
        return all(
            name.startswith(("decoder", "upsample"))
            or (
                weight.device == weights[name].device
                and weight.dtype == weights[name].dtype
                and torch.equal(weight, weights[name])
            )
            for name, weight in mine.state_dict().items()
        )

    def init_state(
        self, batch_size: int, *, encodes: bool = True, searches: bool = True
    ) -> RecogniserState:
        """Fresh slots; with `encodes=False` for a recogniser that is given codes.

        Args:
            searches: whether each has a beam, if the recogniser has one. Without, text is not late
                (`wait_frames`), and `follow` takes it.
        """
        rows = self.beam.config.width if self.beam is not None and searches else 1
        state = self._fresh.select([0] * (batch_size * rows))
        front_end = self._fresh.front_end
        assert front_end is not None
        state.front_end = front_end.select([0] * batch_size) if encodes else None
        if self.beam is not None and searches:
            state.beam = self.beam.fresh(batch_size, self.lm.device)
        return state

    def reset(self, state: RecogniserState, mask: Tensor | None = None) -> None:
        """Make the slots of `mask` [B] fresh (all, when `None`); others keep every bit.

        How strongly a slot is biased is a setting and stays.
        """
        fresh = self._fresh.tensors()
        if self.beam is not None and state.beam is not None:
            hypotheses = self.beam.fresh(1, self.lm.device).tensors()
            fresh |= {f"beam.{path}": tensor for path, tensor in hypotheses.items()}
        for path, tensor in state.tensors().items():
            if path == "bias.strength":
                continue
            rows = fresh[path].expand_as(tensor)
            assign_active(tensor, rows, None if mask is None else mask.to(tensor.device))

    @property
    def baked(self) -> Hashable:
        """The vocabulary: what a step has in Python rather than in its state."""
        return self.bias

    def set_vocabulary(self, words: Iterable[str]) -> int:
        """Lean towards other words from the next step on; returns how many it can lean towards.

        Any thread may do this while another steps: what was heard so far stays as it is, and a
        name that is just being written ends without help.

        Raises:
            RecogniserError: the recogniser was made without a vocabulary.
        """
        if not self._leans:
            raise RecogniserError("this recogniser was made without a vocabulary to lean towards")
        trie = BiasTrie.of_words(
            words, self.tokenizer, self.lm.config.text_classes, self._weights, self.silent_tokens,
            self.lm.device,
        )  # fmt: skip
        self.bias = trie if trie.entries else None
        return trie.entries

    def set_strength(
        self, state: RecogniserState, strength: float, mask: Tensor | None = None
    ) -> None:
        """How strongly the slots of `mask` lean towards the vocabulary: 1 as given, 0 not at all.

        Raises:
            RecogniserError: the recogniser has no vocabulary.
        """
        if state.bias is None:
            raise RecogniserError("this recogniser was made without a vocabulary to lean towards")
        assign_active(state.bias.strength, torch.full_like(state.bias.strength, strength), mask)

    @torch.no_grad()
    def step(self, heard: Tensor, state: RecogniserState, active: Tensor | None = None) -> Drawn:
        """Hear one frame: float pcm [B, 1, frame_size] or int64 codes [B, >= num_codebooks, 1].

        Raises:
            RecogniserError: pcm for a state that was made for codes.
        """
        if heard.is_floating_point():
            heard = self.encode(heard, state, active)
        return self.read(heard, state, active)

    @torch.no_grad()
    def encode(self, pcm: Tensor, state: RecogniserState, active: Tensor | None = None) -> Tensor:
        """Some frames [B, 1, T] as what `read` takes, one frame of it at a time: [B, ..., frames].

        Raises:
            RecogniserError: for a state that was made for codes.
        """
        if state.front_end is None:
            raise RecogniserError("this state was made for codes (encodes=False), not for pcm")
        return self.front_end.encode_step(pcm, state.front_end, active, self.num_codebooks)

    @torch.no_grad()
    def flush(
        self,
        state: RecogniserState,
        active: Tensor | None = None,
        encoder: MimiState | EncoderState | None = None,
    ) -> list[Drawn]:
        """Hear silence for as long as the model is behind, so that all words so far come out:
        `flush_frames` tokens, the last of which are those that a beam still owed.

        The codec itself hears no silence: the conversation's next frame follows its last.

        Args:
            encoder: state of the codec whose codes `step` is given; it is only read.
        """
        own = encoder.encoder if isinstance(encoder, MimiState) else encoder or state.front_end
        if own is None:
            raise RecogniserError("to flush a state without a codec, give the codec's state")
        fork: Any = own.clone()
        samples = (self.flush_frames - self.wait_frames) * self.frame_size
        silence = torch.zeros(state.slots, 1, samples, device=self.lm.device)
        encoded = self.front_end.encode_step(silence, fork, active, self.num_codebooks)
        drawn = [self.read(one, state, active) for one in encoded.split(1, dim=-1)]
        if self.beam is not None and state.beam is not None:
            # Nothing is to come that hypotheses should be kept open for.
            last = drawn[-1]
            drawn += [
                replace(last, text=_of_active(text, active, UNGENERATED))
                for text in self.beam.settle(state.beam, active)
            ]
        return drawn

    def assembler(self) -> WordAssembler:
        """Text of one conversation, from its first frame on."""
        return WordAssembler(
            self.tokenizer, delay_s=self.delay_s, frame_rate=self.frame_rate,
            padding=self.lm.config.existing_text_padding_id,
        )  # fmt: skip

    @torch.no_grad()
    def read(self, encoded: Tensor, state: RecogniserState, active: Tensor | None = None) -> Drawn:
        """One step of the model: codes [B, K, 1], or vectors [B, dim, 1] of its own front end.

        Hot path: nothing here waits for the device.
        """
        return self._draw(self._hear(encoded, state, active), state, active)

    @torch.no_grad()
    def follow(self, encoded: Tensor, state: RecogniserState, text: Tensor) -> Tensor:
        """One step in which the text tokens int64 [B] are written, whatever the model would write.

        Where a slot stands in the vocabulary is left as it is: it tells nothing of what was heard.

        Args:
            state: one without a beam (`init_state(..., searches=False)`).

        Returns:
            Log-probability of every text token, float32 [B, text classes].
        """
        logits = self._hear(encoded, state, None).text_logits
        assign_active(state.text, text, None)
        return logits.float().log_softmax(dim=-1)

    def _hear(self, encoded: Tensor, state: RecogniserState, active: Tensor | None) -> Reading:
        lm, books = self.lm, self.num_codebooks
        if self.beam is not None and state.beam is not None:
            encoded = encoded.repeat_interleave(self.beam.config.width, 0)
            active = self.beam.rows(state.beam, active)
        if encoded.is_floating_point():
            nothing = state.text.new_empty(len(encoded), 0, 1)
            return self._read_column(nothing, encoded.transpose(1, 2), state, active)
        codes = encoded
        if codes.dim() != 3 or codes.shape[1] < books or codes.shape[2] != 1:
            raise RecogniserError(
                f"a step takes codes [B, {books} or more, 1], got {tuple(codes.shape)}"
            )
        codes = codes[:, :books]
        if active is not None:
            codes = torch.where(over_rows(active, codes), codes, lm.config.audio_initial)
        return self._read_column(codes, None, state, active)

    def _read_column(
        self, codes: Tensor, vector: Tensor | None, state: RecogniserState, active: Tensor | None
    ) -> Reading:
        """Read a column of text and codes [B, K, 1] and what is added to it."""
        column = torch.cat([state.text[:, None], codes[..., 0]], dim=1)
        added = self._condition
        if vector is not None:
            added = (vector if added is None else added + vector).contiguous()
        return self._reader(column, state.temporal, active, added)

    def _draw(self, reading: Reading, state: RecogniserState, active: Tensor | None) -> Drawn:
        """The likeliest text token of each slot, with the vocabulary's help."""
        if self.beam is not None and state.beam is not None:
            return self._search(reading, state, self.beam, state.beam, active)
        logits = reading.text_logits
        trie = self.bias
        if trie is not None and state.bias is not None:
            text = trie.choose(logits, state.bias)
            trie.advance(text, state.bias, active)
        else:
            text = logits.float().argmax(dim=-1)
        assign_active(state.text, text, active)
        return self._drawn(text, self._pause(logits, reading.extra_heads), reading.z, active)

    def _search(
        self,
        reading: Reading,
        state: RecogniserState,
        beam: Beam,
        hypotheses: BeamState,
        active: Tensor | None,
    ) -> Drawn:
        """Go on with the likeliest hypotheses."""
        plain, trie = reading.text_logits.float().log_softmax(dim=-1), self.bias
        gains = plain
        if trie is not None and state.bias is not None:
            gains = trie.lean(plain, state.bias)
        advance = beam.advance(gains, hypotheses, active)
        reorder(state.temporal, advance.parents)
        if state.bias is not None:
            reorder(state.bias, advance.parents)
        tokens = advance.tokens.flatten()
        assign_active(state.text, tokens, active)
        first = torch.arange(len(hypotheses.scores), device=tokens.device) * beam.config.width
        if trie is not None and state.bias is not None:
            of_rows = None if active is None else active.repeat_interleave(beam.config.width)
            source = (first[:, None] + advance.parents).flatten()
            gained = gains[source, tokens] - plain[source, tokens]
            trie.lend(tokens, gained, state.bias, of_rows)
            trie.advance(tokens, state.bias, of_rows)
        best = first + advance.parents[:, 0]
        pause = self._pause(reading.text_logits, reading.extra_heads)
        return self._drawn(advance.text, pause[best], reading.z[best], active)

    def _drawn(self, text: Tensor, pause: Tensor, vector: Tensor, active: Tensor | None) -> Drawn:
        return Drawn(
            _of_active(text, active, UNGENERATED), _of_active(pause, active, math.nan), vector
        )

    def _pause(self, logits: Tensor, extra: list[Tensor]) -> Tensor:
        """Probability that nothing is said for a while, [B]; NaN without heads."""
        if not extra:
            return torch.full((logits.shape[0],), math.nan, device=logits.device)
        return extra[min(PAUSE_HEAD, len(extra) - 1)][:, 0]

    @torch.no_grad()
    def _make_fresh(self, prefix_frames: int) -> RecogniserState:
        """State of one slot that has read the initial column and the silence before its audio."""
        lm, config = self.lm, self.lm.config
        state = RecogniserState(
            temporal=lm.transformer.init_state(1, device=lm.device, dtype=lm.dtype),
            text=torch.full((1,), config.text_initial, device=lm.device),
            front_end=self.front_end.init_encoder_state(1),  # type: ignore[arg-type]
        )
        shape = (1, self.num_codebooks, 1)
        initial = torch.full(shape, config.audio_initial, device=lm.device)
        self._draw(self._read_column(initial, None, state, None), state, None)
        silence = torch.zeros(1, 1, self.frame_size, device=lm.device)
        for _ in range(prefix_frames):
            self.step(silence, state)
        if self._leans:  # only now: nothing has been heard that could be a name
            state.bias = BiasState.fresh(1, lm.device)
        return state


def _of_active(value: Tensor, active: Tensor | None, otherwise: float) -> Tensor:
    return value if active is None else torch.where(active, value, otherwise)


def _check(
    lm: MoshiLM,
    front_end: Mimi | MelFrontEnd,
    tokenizer: TextTokenizer,
    delay_s: float,
    prefix_s: float,
) -> None:
    config = lm.config
    if config.dep_q:
        raise RecogniserError(
            f"this model speaks (dep_q {config.dep_q}); a recogniser only writes (dep_q 0)"
        )
    if any(config.delays):
        raise RecogniserError("recognisers with delays between their own streams are not supported")
    if config.demux_second_stream or config.cross_attention or lm.condition_provider.fuser.prepend:
        raise RecogniserError(
            "recognisers with a second text stream, cross-attention or prepended conditions are "
            "not supported"
        )
    if isinstance(front_end, Mimi):
        books, bins = front_end.config.quantizer.n_q, front_end.config.quantizer.bins
        if config.n_q > books or config.card != bins:
            raise RecogniserError(
                f"the recogniser hears {config.n_q} codebooks of {config.card} entries, the codec "
                f"has {books} of {bins}"
            )
    elif config.n_q or front_end.config.dim != config.dim:
        raise RecogniserError(
            f"a front end of its own gives vectors of {front_end.config.dim} numbers; the "
            f"recogniser takes {config.n_q} codebooks and has vectors of {config.dim}"
        )
    if config.text_classes > len(tokenizer):
        raise RecogniserError(
            f"the recogniser writes {config.text_classes} pieces, its tokenizer has "
            f"{len(tokenizer)}"
        )
    if (front_end.sample_rate, front_end.frame_size) != (SAMPLE_RATE, FRAME_SIZE):
        raise RecogniserError(
            f"the recogniser hears frames of {front_end.frame_size} samples at "
            f"{front_end.sample_rate} Hz; only {FRAME_SIZE} at {SAMPLE_RATE} Hz are supported"
        )
    device = next(front_end.parameters()).device
    if device != lm.device:
        raise RecogniserError(f"codec on {device}, recogniser on {lm.device}: load both on one")
    for name, value in (("delay_s", delay_s), ("prefix_s", prefix_s)):
        if not 0 <= value <= 60:
            raise RecogniserError(f"{name}: {value!r} is not between 0 and 60 seconds")
