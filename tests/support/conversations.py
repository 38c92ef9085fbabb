"""Tiny untrained models for whole conversations, and the outside world in small.

The model asks for knowledge often (its retrieval token is one of few), so a few dozen frames see
triggers, lookups, injections and barge-ins.
"""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.conditioning import ConditionProvider, FuserConfig
from duologue.engine import LoadedModel
from duologue.mimi import Mimi, MimiConfig
from duologue.mimi.config import MimiTransformerConfig, QuantizerConfig, SEANetConfig
from duologue.moshi import LMConfig, MoshiLM, Sampling
from duologue.moshi.sampling import GenerationDefaults
from duologue.retrieval import Outcome, RetrievalContext, Retrieved
from duologue.retrieval.protocol import Source
from duologue.stt.ports import Heard
from duologue.stt.recogniser import Recogniser

DIM = 32
CODEC = MimiConfig(
    seanet=SEANetConfig(dimension=16, n_filters=2),
    quantizer=QuantizerConfig(dimension=8, n_q=4, bins=48, input_dimension=16, output_dimension=16),
    transformer=MimiTransformerConfig(
        d_model=16, num_heads=2, num_layers=1, dim_feedforward=16, context=20, input_dimension=16,
        output_dimensions=(16,),
    ),
)  # fmt: skip
TRIGGER = 4
CONDITIONERS = {
    "first_speaker": {
        "type": "lut",
        "lut": {
            "n_bins": 2, "dim": 4, "tokenizer": "noop",
            "possible_values": ["SPEAKER_MAIN", "SPEAKER_OTHER"],
        },
    },
    "reference_with_time": {
        "type": "arc_encoder",
        "arc_encoder": {
            "embedder_params": {
                "vocab_size": 40, "dim": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2,
                "head_dim": 8, "hidden_dim": 16, "compress_rates": [-2],
            },
            "bridge_module": {"hidden_dim": 8, "out_dim": 16},
        },
    },
}  # fmt: skip


class NumberPieces:
    """Tokens as words: 7 is " w7"."""

    def push(self, token: int) -> str:
        return f" w{token}"

    def flush(self) -> str:
        return ""


class NumberTokenizer:
    """A tokenizer without a file."""

    def __len__(self) -> int:
        return 12

    def encode(self, text: str) -> list[int]:
        return [5 + len(word) % 5 for word in text.split()]

    def byte(self, token: int) -> int | None:
        return None

    def stream(self) -> NumberPieces:
        return NumberPieces()


@lru_cache
def model(max_delay: int = 1, prompted: bool = False) -> LoadedModel:
    """Untrained, with references and a first speaker; `prompted`: like PersonaPlex instead."""
    torch.manual_seed(0)
    codec = Mimi(CODEC).eval().requires_grad_(False)
    _make_codes_telling(codec)
    side = (0, *(max_delay,) * 3)
    config = LMConfig(
        dim=DIM, num_heads=2, num_layers=1, n_q=8, dep_q=8 if prompted else 4,
        delays=(0, *side, *side), card=48, text_card=12, hidden_scale=3, context=20,
        depformer_dim=16, depformer_num_heads=2, depformer_num_layers=1,
        rag_token_id=None if prompted else TRIGGER,
    )  # fmt: skip
    fuser = FuserConfig(prepend=("first_speaker",), streaming_sum=("reference_with_time",))
    provider = None if prompted else ConditionProvider(DIM, CONDITIONERS, fuser)
    lm = MoshiLM(config, provider).eval().requires_grad_(False)
    if prompted:
        lm.defaults = type(lm.defaults)(generated_q=4)
    return LoadedModel(codec, lm, NumberTokenizer(), name="tiny", takes_prompts=prompted)


@lru_cache
def recogniser(own_codec: bool = False) -> Recogniser:
    """Untrained: hears words all the time, in the model's codes or those of a codec of its own."""
    torch.manual_seed(1)
    codec = model().codec
    if own_codec:
        codec = Mimi(CODEC).eval().requires_grad_(False)
        _make_codes_telling(codec)
    config = LMConfig(
        dim=32, num_heads=2, num_layers=1, n_q=4, dep_q=0, delays=(0,) * 5, card=48, text_card=12,
        hidden_scale=3, context=20, extra_heads_num_heads=3, extra_heads_dim=2,
    )  # fmt: skip
    lm = MoshiLM(config).eval().requires_grad_(False)
    return Recogniser(lm, codec, NumberTokenizer(), delay_s=0.16, prefix_s=0.08)  # type: ignore[arg-type]


@lru_cache
def listening_model() -> LoadedModel:
    """`model()`, which is told besides what `recogniser()` makes of the user."""
    plain = model()
    config = replace(plain.lm.config, heard_dim=recogniser().dim)
    lm = MoshiLM(config, copy.deepcopy(plain.lm.condition_provider))
    lm.load_state_dict(plain.lm.state_dict(), strict=False)
    torch.manual_seed(2)
    torch.nn.init.normal_(lm.hearing.weight)
    return replace(plain, lm=lm.eval().requires_grad_(False))


@lru_cache
def quoting_model() -> LoadedModel:
    """`model()`, which reads out what was looked up once it has said a piece of it."""
    plain = model()
    lm = copy.copy(plain.lm)
    lm.defaults = GenerationDefaults(text=Sampling(1.5, 0, pooled_from=5), quoting=20.0)
    return replace(plain, lm=lm)


def _make_codes_telling(codec: Mimi) -> None:
    """Centroids from what the encoder makes of noise, so that codes tell sounds apart."""
    loudness = torch.linspace(0, 1, 96).repeat_interleave(1920)
    latent = codec.encode_to_latent((torch.rand(1, 1, 96 * 1920) - 0.5) * loudness)
    latent = latent.transpose(1, 2)
    for cascade in (codec.quantizer.first, codec.quantizer.rest):
        residual = cascade.input_proj(latent)[0]
        for codebook in cascade.codebooks:
            codebook.embedding.copy_(residual[::2] * 1.01)
            residual = residual - codebook.lookup(codebook.nearest(residual))


def speech(frames: int, seed: int = 0) -> NDArray[np.float32]:
    """Noise [frames * 1920] in [-0.5, 0.5] that 16 bits hold exactly."""
    source = np.random.default_rng(seed)
    return (source.integers(-16384, 16384, frames * 1920) / 32768).astype(np.float32)


def frames_of(pcm: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return list(pcm.reshape(-1, 1920))


class Facts:
    """A retriever that knows everything, or fails in a chosen way."""

    def __init__(self, behaviour: str = "answer", delay_s: float = 0.0) -> None:
        self.behaviour, self.delay_s = behaviour, delay_s
        self.asked: list[RetrievalContext] = []
        self.cancelled = 0

    @property
    def name(self) -> str:
        return "facts"

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        self.asked.append(context)
        try:
            await asyncio.sleep(self.delay_s)
            if self.behaviour == "hang":
                await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.behaviour == "raise":
            raise RuntimeError("out of order")
        if self.behaviour == "empty":
            return Retrieved(Outcome.EMPTY)
        words = f"the answer is number {len(self.asked)}"
        return Retrieved(Outcome.ANSWERED, words, (Source("facts.md", line=3),), 0.9)

    async def aclose(self) -> None:
        pass


class Rows:
    """A reference encoder: one row a word, the same for the same text; or it fails."""

    def __init__(self, behaviour: str = "encode") -> None:
        self.behaviour = behaviour

    @property
    def dim(self) -> int:
        return DIM

    async def encode(self, text: str, deadline_s: float) -> Tensor:
        words = text.split()
        rows = torch.stack([torch.full((DIM,), 0.1 * len(word)) for word in words])
        match self.behaviour:
            case "raise":
                raise RuntimeError("out of order")
            case "nan":
                return rows * torch.nan
            case "narrow":
                return rows[:, :3]
            case "hang":
                await asyncio.sleep(3600)
        return rows

    async def aclose(self) -> None:
        pass


def babble(frame: int, every: int = 5) -> Heard:
    """What somebody who talks and pauses is recognised as."""
    speaks = frame % 24 < 12
    words = (f" word{frame}",) if speaks and frame % every == 0 else ()
    return Heard(words, inactivity=0.1 if speaks else 0.9, transcribed_frame=frame)


class Babble:
    """Remote recognition without a remote: `babble`, frame by frame."""

    def __init__(self, broken_at: int | None = None) -> None:
        self.broken_at = broken_at
        self.streams: list[BabbleStream] = []

    async def open(self) -> BabbleStream:
        self.streams.append(BabbleStream(self.broken_at))
        return self.streams[-1]


class BabbleStream:
    def __init__(self, broken_at: int | None) -> None:
        self.frames = 0
        self.flushes = 0
        self.closed = False
        self._broken_at = broken_at

    def push(self, frame: NDArray[np.float32]) -> None:
        assert frame.shape == (1920,)
        if self.frames == self._broken_at:
            raise ConnectionError("gone")
        self.frames += 1

    def take(self) -> Heard:
        return babble(self.frames - 1)

    def flush(self) -> None:
        self.flushes += 1

    async def finish(self, timeout_s: float = 5.0) -> Heard:
        return Heard()

    async def aclose(self) -> None:
        self.closed = True

    async def __aenter__(self) -> BabbleStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


class MadeUpTime:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now
