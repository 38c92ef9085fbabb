"""A tiny recogniser: the golden weights of a delayed-streams model, a random codec, a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from support.golden import GOLDEN

import duologue
from duologue.checkpoints.tokenizer import TextTokenizer
from duologue.mimi.codec import Mimi
from duologue.mimi.config import (
    MimiConfig,
    MimiTransformerConfig,
    QuantizerConfig,
    SEANetConfig,
)
from duologue.moshi.config import LMConfig
from duologue.moshi.lm import MoshiLM
from duologue.nn.conv import CausalConv1d
from duologue.stt.beam import BeamConfig
from duologue.stt.front_end import MelFrontEnd, MelFrontEndConfig
from duologue.stt.recogniser import Recogniser

TEXTS = (
    "the quick brown fox jumps over the lazy dog", "Canberra is the capital of Australia",
    "a canal and a cancer are no candidates", "New York, new cork and Newark", "what is the time?",
)  # fmt: skip
CODEC = MimiConfig(
    seanet=SEANetConfig(dimension=16, n_filters=2),
    quantizer=QuantizerConfig(dimension=8, n_q=9, bins=48, input_dimension=16, output_dimension=16),
    transformer=MimiTransformerConfig(
        d_model=16, num_heads=2, num_layers=1, dim_feedforward=16, context=8, input_dimension=16,
        output_dimensions=(16,),
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _train(path: Path, pieces: int, *, byte_fallback: bool) -> Path:
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 4), model_writer=file, model_type="bpe",
            vocab_size=pieces, character_coverage=1.0, byte_fallback=byte_fallback, unk_id=0,
            bos_id=1, eos_id=2, pad_id=3, num_threads=1, minloglevel=2,
        )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many pieces as the golden model has classes."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return _train(path, 96, byte_fallback=False)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> TextTokenizer:
    return TextTokenizer(tokenizer_path)


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """One that spells what it does not know in bytes."""
    path = tmp_path_factory.mktemp("tokenizer") / "bytes.model"
    return TextTokenizer(_train(path, 340, byte_fallback=True))


@pytest.fixture(scope="session")
def codec() -> Mimi:
    torch.manual_seed(7)
    return Mimi(CODEC, 8).eval().requires_grad_(False)


MakeRecogniser = Callable[..., Recogniser]


@pytest.fixture(scope="session")
def make_recogniser(codec: Mimi, tokenizer: TextTokenizer) -> MakeRecogniser:
    lm = duologue.load_lm(GOLDEN / "lm_stt", device="cpu", dtype=torch.float32)

    def make(**options: Any) -> Recogniser:
        given: dict[str, Any] = {"delay_s": 0.5, **options}
        return Recogniser(lm, codec, tokenizer, **given)

    return make


@pytest.fixture(scope="session")
def recogniser(make_recogniser: MakeRecogniser) -> Recogniser:
    return make_recogniser()


@pytest.fixture(scope="session")
def of_spectra(tokenizer: TextTokenizer) -> Recogniser:
    """One with a front end of its own and random weights."""
    torch.manual_seed(3)
    config = LMConfig(
        dim=32, num_heads=2, num_layers=2, n_q=0, dep_q=0, delays=(0,), card=1, context=12,
        text_card=96, existing_text_padding_id=3, extra_heads_num_heads=4,
    )  # fmt: skip
    lm = MoshiLM(config).eval().requires_grad_(False)
    front_end = MelFrontEnd(MelFrontEndConfig(dim=32, channels=(8, 8, 12), units=(1, 2, 1)))
    for unit in front_end.modules():
        if isinstance(unit, CausalConv1d) and not unit.weight.any():
            torch.nn.init.normal_(unit.weight, std=0.3)
    return Recogniser(lm, front_end.eval().requires_grad_(False), tokenizer, delay_s=0.5)


@pytest.fixture(scope="session")
def searching(of_spectra: Recogniser, tokenizer: TextTokenizer) -> Recogniser:
    """The same with three hypotheses, two frames late."""
    front_end, beam = of_spectra.front_end, BeamConfig(3, 2, margin=8.0)
    assert isinstance(front_end, MelFrontEnd)
    return Recogniser(of_spectra.lm, front_end, tokenizer, delay_s=0.5, beam=beam)


@pytest.fixture(scope="session", params=["codes", "spectra", "hypotheses"])
def any_recogniser(
    request: pytest.FixtureRequest,
    recogniser: Recogniser,
    of_spectra: Recogniser,
    searching: Recogniser,
) -> Recogniser:
    known = {"codes": recogniser, "spectra": of_spectra, "hypotheses": searching}
    return known[request.param]
