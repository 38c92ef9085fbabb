"""Text rows, encoded corpora, and tiny language models that learn, stop and go on."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import duologue
from duologue.audio.files import read_channels
from duologue.audio.wav import write_wav
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.load import load_codec
from duologue.checkpoints.reference import load_reference_encoder, load_reference_tokenizer
from duologue.checkpoints.save import save_codec
from duologue.checkpoints.tokenizer import TextTokenizer
from duologue.conditioning.provider import MAIN, OTHER
from duologue.conditioning.reference import ReferenceConfig
from duologue.mimi.codec import Mimi
from duologue.mimi.config import MimiConfig
from duologue.moshi.config import LMConfig
from duologue.moshi.embedding import TokenEmbedding
from duologue.moshi.lm import MoshiLM
from duologue.stt.front_end import MelFrontEnd, MelFrontEndConfig, band_centres
from duologue.stt.load import load_recogniser
from duologue.stt.recogniser import Recogniser
from duologue.training.checkpoint import TrainingStateError, load_newest
from duologue.training.code_embeddings import begin_with_codebooks
from duologue.training.config import TrainingConfigError, parse
from duologue.training.data import DataError
from duologue.training.duplex import REFERENCE, DuplexTask, DuplexTrainingConfig, load_duplex
from duologue.training.encoded import (
    Conversation,
    EncodedCorpus,
    codec_fingerprint,
    encode_corpus,
)
from duologue.training.exercises import (
    Exercise,
    ExerciseConfig,
    ExerciseSampler,
    SpokenPhones,
    rooms_of,
)
from duologue.training.heard import hear_corpus, recogniser_fingerprint
from duologue.training.heard_pieces import HeardPieces, collect_pieces
from duologue.training.language import Corpus
from duologue.training.lm_data import (
    CutSequence,
    DuplexSampler,
    LMBatch,
    SequenceConfig,
    TranscriptionSampler,
    collate,
    seconds_of_silence,
)
from duologue.training.lm_losses import audio_loss, delayed, hint_loss, pause_loss, text_loss
from duologue.training.phones import PhoneSet
from duologue.training.scripts import ScriptConfig, ScriptSampler
from duologue.training.sound import BendingConfig, bend
from duologue.training.stt import STTTask, STTTrainingConfig
from duologue.training.text_stream import (
    END_OF_PADDING,
    FIRST_PIECE,
    PADDING,
    RETRIEVAL,
    place_retrieval,
    text_row,
)
from duologue.training.tokenizer import train_tokenizer
from duologue.training.trainer import Outcome, Trainer
from duologue.training.translation import translate_codes, translate_folder

from .conftest import RATE, TINY

LINES = [
    "hello there how are you", "what is the capital of france", "let me see",
    "the capital of france is paris", "i do not know that", "what is the symbol of gold",
]  # fmt: skip


class Letters:
    """One token per letter, from 10 on."""

    def encode(self, text: str) -> list[int]:
        return [10 + ord(letter) - ord("a") for letter in text]


def spoken(text: str, start: float, speaker: str) -> list[Any]:
    words = text.split()
    return [[w, [start + 0.3 * i, start + 0.3 * i + 0.25], speaker] for i, w in enumerate(words)]


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(LINES * 20, path, 320)
    return path


@pytest.fixture(scope="session")
def codec() -> Mimi:
    torch.manual_seed(0)
    return Mimi(MimiConfig.from_dict(TINY["codec"])).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five dialogues with one lookup each; the last is held out."""
    folder = tmp_path_factory.mktemp("dialogues")
    rng = np.random.default_rng(0)
    for index in range(5):
        pcm = rng.normal(0, 0.05, (2, 8 * RATE)).astype(np.float32)
        pcm[1, : RATE // 2] = 0
        write_wav(folder / f"{index}.wav", pcm, RATE)
        facts = {
            "kind": "dialogue", "id": f"d{index}", "split": "valid" if index == 4 else "train",
            "alignments": [
                *spoken("what is the capital of france", 0.5, OTHER),
                *spoken("let me see", 3.0, MAIN),
                *spoken("the capital of france is paris", 4.5, MAIN),
            ],
            "turns": [{"speaker": OTHER, "start": 0.5, "end": 2.5}],
            "retrieval": [{
                "trigger_time": 2.92, "arrival_time": 4.0, "outcome": "found",
                "reference_text": "the capital of france is paris", "body_start": 4.5,
                "body_end": 6.5,
            }],
        }  # fmt: skip
        (folder / f"{index}.json").write_text(json.dumps(facts))
    rows = [json.dumps({"path": f"{index}.wav", "duration": 8.0}) for index in range(5)]
    (folder / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "manifest.jsonl"


@pytest.fixture(scope="session")
def encoded(dialogues: Path, codec: Mimi, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoded")
    assert encode_corpus(dialogues, codec, out, shard=2) == 5
    return out


def test_processes_share_the_encoding(
    dialogues: Path, codec: Mimi, encoded: Path, tmp_path: Path
) -> None:
    for index in (1, 0):
        encode_corpus(dialogues, codec, tmp_path / "parts", shard=2, part=(index, 2))
    whole, parts = EncodedCorpus(encoded), EncodedCorpus(tmp_path / "parts")
    assert whole.fingerprint == parts.fingerprint
    pairs = zip(whole.conversations, parts.conversations, strict=True)
    assert all(torch.equal(one.codes, other.codes) for one, other in pairs)


def test_words_begin_in_their_frame_after_an_end_of_padding() -> None:
    row = text_row([("ab", 0.30, 0.5), ("c", 0.79, 0.9)], 14, 12.5, Letters())
    expected = [PADDING] * 14
    expected[2:5] = [END_OF_PADDING, 10, 11]
    expected[8:10] = [END_OF_PADDING, 12]
    assert row.tokens.tolist() == expected
    assert row.placed.tolist() == [3, 9]


def test_a_new_word_takes_the_place_of_an_unfinished_one() -> None:
    row = text_row([("abcdef", 0.0, 0.2), ("g", 0.16, 0.3)], 6, 12.5, Letters())
    assert row.tokens.tolist() == [10, 11, 16, PADDING, PADDING, PADDING]


def test_a_new_word_may_wait_for_an_unfinished_one() -> None:
    row = text_row([("abcd", 0.0, 0.2), ("g", 0.16, 0.3)], 7, 12.5, Letters(), wait=True)
    assert row.tokens.tolist() == [10, 11, 12, 13, 16, PADDING, PADDING]
    assert row.placed.tolist() == [0, 4]


def test_delayed_words_come_later() -> None:
    row = text_row([("a", 0.0, 0.2)], 8, 12.5, Letters(), delay_s=0.4)
    assert row.tokens.tolist().index(10) == 5


def test_the_trigger_stands_before_the_lead() -> None:
    words = [("a", 0.1, 0.2), ("b", 1.0, 1.1)]
    row = text_row(words, 20, 12.5, Letters())
    assert place_retrieval(row, words, 1.0, RETRIEVAL) == 11
    assert row.tokens[11:13].tolist() == [RETRIEVAL, 11]
    assert place_retrieval(row, words, 1.5, RETRIEVAL) is None


def test_delays_shift_inputs_and_targets() -> None:
    config = LMConfig(
        dim=8, num_heads=2, num_layers=1, n_q=2, dep_q=1, delays=(0, 1, 2), card=50, text_card=40
    )
    codes = torch.arange(12).view(1, 3, 4)
    codes[0, 2, 3] = -1
    inputs, targets = delayed(codes, config)
    assert inputs[0].tolist() == [[40, 0, 1, 2], [50, 50, 4, 5], [50, 50, 50, 8]]
    assert targets[0].tolist() == [[0, 1, 2, 3], [-1, 4, 5, 6], [-1, -1, 8, 9]]


def test_losses_agree_with_the_models_own_whole_pass(codec: Mimi) -> None:
    from duologue.moshi.lm import MoshiLM

    torch.manual_seed(0)
    config = LMConfig(
        dim=16, num_heads=2, num_layers=1, n_q=4, dep_q=2, delays=(0, 0, 1, 0, 1), card=8,
        text_card=12, depformer_dim=16, depformer_num_heads=2, depformer_num_layers=1,
    )  # fmt: skip
    lm = MoshiLM(config)
    codes = torch.randint(0, 8, (2, 5, 9))
    codes[1, :, 7:] = -1
    whole = lm(codes)
    inputs, targets = delayed(codes, config)
    z, text_logits = lm.head(lm.transformer(lm.embed(inputs)))
    logits = lm.depth_logits(z, targets)
    theirs = torch.nn.functional.cross_entropy(whole.logits[whole.mask], codes[:, 1:3][whole.mask])
    _, each = audio_loss(logits, targets[:, 1:3], first_weight=1.0)
    counts = (targets[:, 1:3] != -1).sum(dim=(0, 2))
    torch.testing.assert_close((each * counts).sum() / counts.sum(), theirs)
    text = text_loss(text_logits, targets[:, 0], padding_weight=1.0, special={})
    expected = torch.nn.functional.cross_entropy(
        whole.text_logits[whole.text_mask], codes[:, :1][whole.text_mask]
    )
    torch.testing.assert_close(text, expected)


def test_padding_weighs_less() -> None:
    logits = torch.zeros(1, 2, 8)
    logits[0, 0, 6] = 5.0
    targets = torch.tensor([[6, PADDING]])
    light = text_loss(logits, targets, padding_weight=0.1, special={})
    heavy = text_loss(logits, targets, padding_weight=1.0, special={})
    assert light < heavy


def test_silence_is_counted_to_the_next_word() -> None:
    quiet = seconds_of_silence([("a", 0.0, 0.16), ("b", 0.80, 0.96)], 14, 12.5)
    assert quiet[:2].tolist() == [0, 0]
    assert quiet[2] == pytest.approx(0.56, abs=1e-6)
    assert quiet[10] == 0
    assert np.isinf(quiet[13])
    sure = [torch.tensor([[[9.0, -9.0]] * 14])] * 2
    late = pause_loss(sure, torch.from_numpy(np.full((1, 14), np.inf, np.float32)), (0.5, 3.0))
    assert late < 1e-3


def test_encoding_goes_on_and_matches_the_codec(
    dialogues: Path, encoded: Path, codec: Mimi, tmp_path: Path
) -> None:
    corpus = EncodedCorpus(encoded)
    assert len(corpus.conversations) == 5
    one = corpus.conversations[3]
    assert one.codes.shape == (6, 100)
    assert [w[0] for w in one.words(MAIN)][:3] == ["let", "me", "see"]
    before = {p.name: p.stat().st_mtime_ns for p in encoded.glob("shard*")}
    (encoded / "shard_00001.safetensors").unlink()
    encode_corpus(dialogues, codec, encoded, shard=2)
    after = {p.name: p.stat().st_mtime_ns for p in encoded.glob("shard*")}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"shard_00001.safetensors", "shard_00001.jsonl.gz"}
    torch.manual_seed(9)
    other = Mimi(codec.config)
    with pytest.raises(DataError, match="another codec"):
        encode_corpus(dialogues, other, encoded, shard=2)
    with pytest.raises(DataError, match="another codec"):
        Corpus.of([encoded], other)


def test_what_has_changed_is_encoded_anew(codec: Mimi, tmp_path: Path) -> None:
    for name, seconds in (("a", 2), ("b", 3)):
        pcm = 0.1 * np.random.default_rng(1).standard_normal(seconds * RATE).astype(np.float32)
        write_wav(tmp_path / f"{name}.wav", pcm, RATE)
    manifest, out = tmp_path / "manifest.jsonl", tmp_path / "codes"

    def encoded_of(name: str, word: str) -> Conversation:
        row = {"path": f"{name}.wav", "alignments": [[word, [0.1, 0.3], "SPEAKER_MAIN"]]}
        manifest.write_text(json.dumps(row) + "\n")
        encode_corpus(manifest, codec, out)
        [found] = EncodedCorpus(out).conversations
        return found

    first = encoded_of("a", "wrong")
    when = (out / "shard_00000.safetensors").stat().st_mtime_ns
    again = encoded_of("a", "wrong")
    assert (out / "shard_00000.safetensors").stat().st_mtime_ns == when
    told = encoded_of("a", "right")
    other = encoded_of("b", "right")
    assert torch.equal(first.codes, again.codes)
    assert torch.equal(first.codes, told.codes)
    assert told.facts["alignments"][0][0] == "right"
    assert (first.frames, other.frames) == (25, 38)


def test_a_model_with_fewer_codebooks_than_its_corpus_is_refused(
    encoded: Path, codec: Mimi, tokenizer_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="3 codebooks of each side, the model 2 of its own and 4"):
        duplex(encoded, codec, tokenizer_file, tmp_path, lm={**LM, "dep_q": 2})


def test_references_arrive_at_their_frame(encoded: Path) -> None:
    sampler = DuplexSampler(
        EncodedCorpus(encoded).conversations, SequenceConfig(frames=80, resample_delay=0.0),
        Letters(), reference_tokenizer=Letters(), seed=1, frame_rate=12.5,
    )  # fmt: skip
    one = sampler.cut(sampler.conversations[0], 0, np.random.default_rng(0))
    (reference,) = one.references
    assert reference.frame == 50
    assert reference.tokens is not None
    trigger = int(np.flatnonzero(one.codes[0] == RETRIEVAL)[0])
    assert trigger == 36
    assert one.codes[0, trigger + 1] == Letters().encode("let")[0]
    assert np.flatnonzero(one.grounded)[[0, -1]].tolist() == [56, 79]
    later = sampler.cut(sampler.conversations[0], 40, np.random.default_rng(0))
    assert not later.references
    assert (later.codes[1:, 60:] == -1).all()
    first, again = sampler.batch(3, 2), sampler.batch(3, 2)
    assert torch.equal(first.codes, again.codes)


LM = {
    "dim": 32, "num_heads": 2, "num_layers": 2, "n_q": 6, "dep_q": 3,
    "delays": [0, 0, 1, 1, 0, 1, 1], "hidden_scale": 2.0, "context": 120, "rag_token_id": RETRIEVAL,
    "depformer_dim": 16, "depformer_num_heads": 2, "depformer_num_layers": 1,
}  # fmt: skip
RUN = {
    "steps": 6, "batch": 2, "precision": "float32", "log_every": 2, "evaluate_every": 3,
}  # fmt: skip


def duplex(
    encoded: Path,
    codec: Mimi,
    tokenizer: Path,
    out: Path,
    start: Any = None,
    also: Sequence[Conversation] = (),
    **changes: Any,
) -> Trainer[Any]:
    tables: dict[str, Any] = {
        "lm": LM, "run": RUN, "data": {"frames": 80}, "ema": 0.9, "held_out_sequences": 1,
        "samples": 1, "sample_s": 5.0, "optimizer": {"lr": 0.004, "warmup_steps": 2},
        "losses": {"depth_frames": 20, "first_codebook": 10.0},
        "scripts": {"first_steps": 2, "share": 0.3, "batch": 2, "frames": 40},
        "reference": {
            "embedder_params": {
                "dim": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "head_dim": 8,
                "hidden_dim": 32, "compress_rates": [-2],
            },
            "bridge_module": {"hidden_dim": 16, "out_dim": 32},
        },
    }  # fmt: skip
    for name, values in changes.items():
        tables[name] = {**tables.get(name, {}), **values}
    config = parse(DuplexTrainingConfig, tables)
    corpus = Corpus.of([encoded], codec)
    corpus = replace(corpus, train=[*corpus.train, *also])
    task = DuplexTask(config, corpus, codec, tokenizer, tokenizer, torch.device("cpu"), start)
    return Trainer(task, config.run, out)


def test_duplex_model_overfits_and_hears_its_reference(
    encoded: Path, codec: Mimi, tokenizer_file: Path, tmp_path: Path
) -> None:
    trainer = duplex(
        encoded, codec, tokenizer_file, tmp_path, run={"steps": 60, "evaluate_every": 60},
        scripts={"first_steps": 0, "share": 0.0},
    )  # fmt: skip
    trainer.run()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-2]["text"] < 0.5 * rows[0]["text"]
    judged = rows[-1]
    assert judged["kind"] == "evaluation"
    assert judged["piece_accuracy"] > 0.3
    gradients = [p.grad for p in trainer.task.modules["reference"].parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)
    assert (tmp_path / "samples" / "step_00000060" / "00.wav").is_file()


def test_text_alone_comes_first_for_so_many_steps_of_the_optimiser(
    encoded: Path, codec: Mimi, tokenizer_file: Path, tmp_path: Path
) -> None:
    trainer = duplex(encoded, codec, tokenizer_file, tmp_path, run={**RUN, "accumulate": 3})
    assert trainer.task.source.first == 2 * 2 * 3


def test_scripts_are_dialogues_without_sound(tokenizer_file: Path) -> None:
    def sampler() -> ScriptSampler:
        tokenizer = TextTokenizer(tokenizer_file)
        return ScriptSampler(
            ScriptConfig(frames=100, batch=3), SequenceConfig(resample_delay=0.0), tokenizer,
            reference_tokenizer=tokenizer, rows=4, frame_rate=12.5,
        )  # fmt: skip

    batch = sampler().batch(7, 3)
    again = sampler().batch(7, 3)
    assert torch.equal(batch.codes, again.codes)
    assert batch.references == again.references
    assert batch.codes.shape == (3, 5, 100)
    assert not batch.has_audio
    assert (batch.codes[:, 1:] == -1).all()
    assert ((batch.codes[:, 0] == RETRIEVAL).sum(dim=1) >= 1).all()
    for reference in batch.references:
        row = batch.codes[reference.item, 0]
        assert (row[: reference.frame] == RETRIEVAL).any()
        said = [int(token) for token in row[batch.grounded[reference.item]] if token > RETRIEVAL]
        if reference.tokens is not None and said:
            assert said[0] in reference.tokens


def test_in_scripts_a_user_is_heard_piece_by_piece(tokenizer_file: Path) -> None:
    tokenizer = TextTokenizer(tokenizer_file)
    classes, silent = len(tokenizer), torch.full((2,), -1.0)
    # Two vectors of each piece; those of a piece begin with its number.
    pieces = HeardPieces(
        np.stack([np.repeat(np.arange(classes), 2), np.tile([0, 1], classes)], 1).astype("f2"),
        2 * np.arange(1, classes + 1),
    )
    sampler = ScriptSampler(
        ScriptConfig(frames=100, lookups=0.0, misheard=0.0),
        SequenceConfig(aside_delay_s=0.96, words_wait=True),
        tokenizer, reference_tokenizer=tokenizer, rows=4, frame_rate=12.5,
        silence=torch.tensor([7, 8]), silent_vector=silent, pieces=pieces,
    )  # fmt: skip
    batch, again = sampler.batch(0, 8), sampler.batch(0, 8)
    assert not batch.has_audio
    assert torch.equal(batch.vectors, again.vectors)
    agent, user = batch.codes[:, 1:3], batch.codes[:, 3:]
    assert (agent == -1).all()
    quiet = (user == torch.tensor([7, 8])[:, None]).all(dim=1)
    assert (quiet | (user == -1).all(dim=1)).all()
    assert 0 < quiet.float().mean() < 1
    assert (batch.vectors[quiet] == silent).all(dim=-1).any()
    facts = {"alignments": spoken("hello there", 1.0, OTHER), "retrieval": []}
    nothing = torch.full((4, 100), -1, dtype=torch.int16)
    one = sampler.cut(Conversation(nothing, facts), 0, np.random.default_rng(0))
    assert one.vectors is not None
    heard = [int(told) for told in one.vectors[:, 0] if told > RETRIEVAL]
    assert heard == tokenizer.encode("hello") + tokenizer.encode("there")
    # It is told in the frame before the recogniser writes it, 0.96 s after it was said.
    assert np.flatnonzero(one.vectors[:, 0] > RETRIEVAL)[0] == 12 + 12 - 1
    sampler.scripts = ScriptConfig(frames=150, lookups=1.0, misheard=0.0)
    sampler.config = replace(sampler.config, frames=150)
    for number in range(12):
        asking = sampler.sequence(number)
        asked = int((asking.codes[0] == RETRIEVAL).argmax())
        assert asking.vectors is not None
        told = asking.vectors[: asked + 1, 0] > RETRIEVAL
        assert told.sum() >= 2, "what is looked up has been asked for"


def test_pieces_are_kept_by_what_was_written_next_and_misheard_by_a_share() -> None:
    rng = np.random.default_rng(0)
    vectors = torch.eye(12)[torch.from_numpy(rng.integers(3, 10, 400))]
    pieces = collect_pieces([vectors[:250], vectors[250:]], torch.nn.Identity(), 12)
    assert pieces.known == 7
    tokens = rng.integers(5, 10, 1000)
    assert (pieces.draw(tokens, rng).argmax(axis=1) == tokens).all()
    assert pieces.draw(np.array([11]), rng).argmax() == PADDING
    changed = pieces.misheard(tokens, 0.3, rng) != tokens
    assert 0.2 < changed.mean() < 0.3
    assert (pieces.misheard(np.full(50, PADDING), 1.0, rng) == PADDING).all()


def sentence(seconds: float, codes: int, kind: str = "wren") -> Conversation:
    levels, frames = 3, int(seconds * 12.5)
    facts = {
        "kind": kind, "id": "s", "split": "train", "alignments": spoken("a b", 0.1, MAIN),
    }  # fmt: skip
    return Conversation(torch.full((levels, frames), codes, dtype=torch.int16), facts)


def exercise(name: Exercise, start: int = 0, **amount: Any) -> CutSequence:
    sampler = ExerciseSampler(
        name, [sentence(2.0, 5)], ExerciseConfig(frames=50, **amount),
        SequenceConfig(start_margin=8), Letters(), silence=torch.tensor([1, 2, 3]),
        frame_rate=12.5, reference_tokenizer=Letters(),
    )  # fmt: skip
    return sampler.cut(sampler.conversations[0], start, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["dictation", "listening"])
def test_in_an_exercise_one_speaks_and_the_other_is_silent(name: Exercise) -> None:
    one = exercise(name)
    text, speaks, silent = one.codes[0], one.codes[1:4], one.codes[4:]
    if name == "listening":
        speaks, silent = silent, speaks
        assert (text[text >= 0] == PADDING).all()
        text = one.aside[:, 0]
    else:
        assert (one.aside == -1).all()
    lead = int(np.flatnonzero((speaks == 5).all(axis=0))[0])
    assert 1 <= lead <= 8
    said = slice(lead, lead + 25)
    assert (speaks[:, said] == 5).all()
    assert (speaks[:, :lead] == [[1], [2], [3]]).all()
    assert (silent[:, : said.stop] == [[1], [2], [3]]).all()
    assert (one.codes[:, said.stop :] == -1).all()
    assert [int(token) for token in text[said] if token > RETRIEVAL] == [10, 11]
    assert not one.references


def test_what_is_dictated_may_have_come_as_a_reference() -> None:
    plain, told = exercise("dictation"), exercise("dictation", told=1.0)
    assert (plain.codes == told.codes).all()
    [reference] = told.references
    assert reference.tokens == tuple(Letters().encode("a b"))
    assert reference.frame <= int(np.flatnonzero((told.codes[1:4] == 5).all(axis=0))[0])
    assert (plain.first_speaker, told.first_speaker) == (None, OTHER)
    [rest] = exercise("dictation", start=5, told=1.0).references
    assert rest.frame == 0
    assert rest.tokens == tuple(Letters().encode("b")), "only what is still to be said"
    assert not exercise("listening", told=1.0).references


def test_a_dictation_may_be_given_in_a_room_where_the_user_is_silent() -> None:
    codes = torch.arange(125, dtype=torch.int16).repeat(6, 1)
    facts = {"kind": "dialogue", "alignments": spoken("so it is", 3.0, OTHER)}
    recorded = Conversation(codes, facts, vectors=torch.arange(125.0)[:, None].repeat(1, 2))
    before, after = rooms_of([recorded, sentence(1.0, 5)], 12.5)
    assert before.codes[0].tolist() == list(range(33))
    assert after.codes[0, 0] == math.ceil((3.85 + 0.5) * 12.5)
    assert after.codes[0, -1] == 124
    assert after.vectors is not None
    assert (after.vectors[:, 0] == after.codes[0]).all()

    sampler = ExerciseSampler(
        "dictation", [sentence(2.0, 5)], ExerciseConfig(frames=50, rooms=1.0),
        SequenceConfig(start_margin=8), Letters(), silence=torch.tensor([1, 2, 3]),
        silent_vector=torch.full((2,), -7.0), frame_rate=12.5, rooms=[before, after],
    )  # fmt: skip
    cut = sampler.cut(sampler.conversations[0], 0, np.random.default_rng(0))
    assert cut.vectors is not None
    inside = int((cut.codes[4] >= 0).sum())
    heard = cut.codes[4:, :inside]
    assert (heard[0] == heard[2]).all()
    assert (np.diff(heard[0]) == 1).all(), "one stretch of one room"
    assert (cut.vectors[:inside, 1] == heard[0]).all()
    assert (cut.vectors[inside:] == -7.0).all()
    assert (cut.codes[4:, inside:] == -1).all()


def test_in_dictation_the_phones_of_its_own_voice_are_told_as_late_as_the_voice_is() -> None:
    phones = PhoneSet.listing(["k", "ae"])
    one = sentence(2.0, 5)
    one.facts["phones"] = [["k", 0.0, 0.16], ["ae", 0.16, 0.32], ["zzz", 0.32, 0.48]]
    sampler = ExerciseSampler(
        "dictation", [one], ExerciseConfig(frames=50), SequenceConfig(start_margin=8), Letters(),
        silence=torch.tensor([1, 2, 3]), frame_rate=12.5, hints=SpokenPhones(phones, 2, 3),
    )  # fmt: skip
    cut = sampler.cut(one, 0, np.random.default_rng(0))
    lead = int(np.flatnonzero(cut.codes[1] == 5)[0])
    told = cut.aside[:, 1:].flatten()
    begins = 2 * (lead + 3)
    assert (told[:begins] == 0).all()
    assert told[begins : begins + 12].tolist() == [1] * 4 + [2] * 4 + [-1] * 4
    assert (cut.aside[lead + 25 :, 1:] == -1).all()


def test_exercises_teach_one_thing_only(
    encoded: Path, codec: Mimi, tokenizer_file: Path, tmp_path: Path
) -> None:
    amount = {"share": 0.3, "batch": 2, "frames": 40}
    trainer = duplex(
        encoded, codec, tokenizer_file, tmp_path,
        dictation={**amount, "told": 0.5, "rooms": 0.5}, listening=amount,
        also=[sentence(2.0, 5), sentence(2.0, 5, "users")], losses={"heard": 0.5},
        run={"steps": 12}, hints={"weight": 0.5, "phones": ["a", "b"]},
    )  # fmt: skip
    trainer.run()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"dictated", "listened", "text", "spoken_phones"} <= {
        name for row in rows for name in row
    }
    task = trainer.task
    for sampler in task.source.exercises:
        task.optimizer.zero_grad()
        task.losses(sampler.batch(0, 2), 0, None)[0].backward()
        dictates = sampler.exercise == "dictation"
        assert task.lm.text_linear.weight.grad is None
        assert (task.listener.weight.grad is None) is dictates
        assert (task.lm.depformer_in.at(0).weight.grad is None) is not dictates
        assert (task.hints.weight.grad is None) is not dictates
        assert task.lm.transformer.layers[0].norm1.alpha.grad.abs().sum() > 0
    assert not any("hints" in name for name in task.lm.state_dict())
    with pytest.raises(DataError, match="no corpus of the kind"):
        duplex(encoded, codec, tokenizer_file, tmp_path / "b", dictation={"share": 0.5})


def test_models_are_told_who_begins(
    encoded: Path, codec: Mimi, tokenizer_file: Path, tmp_path: Path
) -> None:
    task = duplex(encoded, codec, tokenizer_file, tmp_path).task
    batch = task.sampler.batch(0, 2)
    added = task._first_speakers(replace(batch, first_speakers=(MAIN, OTHER)))
    unknown = task._first_speakers(replace(batch, first_speakers=(None, None)))
    assert added.shape == (2, 1, 32)
    assert not torch.equal(added[0], added[1])
    assert torch.equal(unknown[0], unknown[1])


@pytest.mark.parametrize(("begins", "first"), [("model", MAIN), ("user", OTHER), (None, None)])
def test_only_a_conversations_beginning_is_begun_by_the_model(
    encoded: Path, begins: str | None, first: str | None
) -> None:
    one = EncodedCorpus(encoded).conversations[0]
    facts = {**one.facts, "init_speaker": begins}
    sampler = DuplexSampler(
        [replace(one, facts=facts)], SequenceConfig(frames=30),
        Letters(), reference_tokenizer=Letters(), seed=1, frame_rate=12.5,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    assert sampler.cut(sampler.conversations[0], 0, rng).first_speaker == first
    later = sampler.cut(sampler.conversations[0], 8, rng).first_speaker
    assert later == (OTHER if begins else None)


def test_users_words_are_told_aside(encoded: Path) -> None:
    sampler = DuplexSampler(
        EncodedCorpus(encoded).conversations, SequenceConfig(frames=60, aside_delay_s=0.48),
        Letters(), reference_tokenizer=Letters(), seed=1, frame_rate=12.5,
    )  # fmt: skip
    aside = sampler.cut(sampler.conversations[0], 0, np.random.default_rng(0)).aside[:, 0]
    assert aside[6 + 6] == Letters().encode("what")[0]
    assert set(aside[40:].tolist()) == {PADDING}


def test_phones_are_told_aside() -> None:
    facts = {"kind": "mono", "alignments": [], "phones": [["aa", 0.08, 0.2], ["t", 0.2, 0.24]]}
    one = Conversation(torch.zeros(3, 6, dtype=torch.int16), facts)
    phones = PhoneSet.listing(["aa"])
    for delay, expected in (
        (0.0, [[0, 0], [1, 1], [1, -1], [0, 0], [0, 0], [0, 0], [-1, -1], [-1, -1]]),
        (0.08, [[0, 0], [0, 0], [1, 1], [1, -1], [0, 0], [0, 0], [-1, -1], [-1, -1]]),
    ):
        sampler = TranscriptionSampler(
            [one], SequenceConfig(frames=8, aside_delay_s=delay), Letters(), seed=0,
            frame_rate=12.5, phones=phones,
        )  # fmt: skip
        assert sampler.cut(one, 0, np.random.default_rng(0)).aside.tolist() == expected
    logits = torch.tensor([[[9.0, -9.0, -9.0, 9.0]]])
    assert hint_loss(logits, torch.tensor([[[0, 1]]])) < 1e-3
    assert hint_loss(logits, torch.tensor([[[1, -1]]])) > 9
    assert hint_loss(logits, torch.tensor([[[-1, -1]]])) == 0


def test_the_last_words_are_written_when_the_sound_is_over() -> None:
    facts = {"kind": "users", "alignments": spoken("the end", 0.9, MAIN), "phones": []}
    one = Conversation(torch.zeros(3, 20, dtype=torch.int16), facts)
    config = SequenceConfig(frames=60, text_delay_s=0.96)
    sampler = TranscriptionSampler([one], config, Letters(), seed=0, frame_rate=12.5)
    row = sampler.cut(one, 0, np.random.default_rng(0)).codes[0]
    pieces = [int(token) for token in row if token >= FIRST_PIECE]
    assert pieces == Letters().encode("the") + Letters().encode("end")
    assert np.flatnonzero(row >= FIRST_PIECE)[-1] >= 20
    assert row[-1] == -1, "and then there is nothing to learn"


def test_code_embeddings_begin_as_the_latent_turned(codec: Mimi) -> None:
    quantizer = codec.quantizer
    tables = [TokenEmbedding(quantizer.bins + 1, 24) for _ in range(3)]
    last = [table.weight[-1].clone() for table in tables]
    begin_with_codebooks(tables, quantizer, seed=3)
    codes = torch.randint(0, quantizer.bins, (1, 3, 50))
    latent = quantizer.decode(codes)[0].T
    embedded = sum(table(codes[0, k]) for k, table in enumerate(tables))
    # Exactly: the quick way is off where a row meets itself.
    exact = "donot_use_mm_for_euclid_dist"
    distances = [torch.cdist(rows, rows, compute_mode=exact) for rows in (latent, embedded)]
    ratio = distances[1].sum() / distances[0].sum()
    torch.testing.assert_close(distances[1], distances[0] * ratio, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(table.weight[-1], row) for table, row in zip(tables, last, strict=True))


def test_a_run_starts_from_another_runs_model(
    encoded: Path, codec: Mimi, tokenizer_file: Path, tmp_path: Path
) -> None:
    first = duplex(encoded, codec, tokenizer_file, tmp_path / "a", losses={"heard": 0.3})
    first.run()
    started = duplex(
        encoded, codec, tokenizer_file, tmp_path / "b", start=load_duplex(tmp_path / "a" / "model")
    )
    trained, begun = first.task.averages["lm"].tensors, started.task.lm.state_dict()
    for name, tensor in trained.items():
        torch.testing.assert_close(begun[name], tensor, rtol=0.01, atol=1e-3)
    with pytest.raises(TrainingStateError, match="does not fit"):
        duplex(
            encoded, codec, tokenizer_file, tmp_path / "c", lm={"dim": 48},
            reference={"bridge_module": {"hidden_dim": 16, "out_dim": 48}},
            start=load_duplex(tmp_path / "a" / "model"),
        )  # fmt: skip


def test_rows_of_codes_are_translated_by_what_they_stand_for() -> None:
    torch.manual_seed(2)
    lm = MoshiLM(LMConfig.from_dict({**LM, "text_card": 8, "card": 16}))
    before = {name: tensor.clone() for name, tensor in lm.state_dict().items()}
    # Code i has become i + 1, but for 3, which has become 4 and 9 in turns; 9 was never heard.
    together = 1000 * torch.eye(16).roll(1, 1).repeat(3, 1, 1)
    together[:, 8] = 0
    together[:, 3, 4] = together[:, 3, 9] = 500
    translate_codes(lm, together)
    after = lm.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    codes = {f"emb.{row}.weight" for row in range(6)} | {f"linears.{k}.weight" for k in range(3)}
    assert changed == codes | {f"depformer_emb.{k}.weight" for k in range(2)}
    for name in changed:
        old, new = before[name], after[name]
        for code, was in ((1, 0), (4, 3), (9, 3), (15, 14), (0, 15)):
            torch.testing.assert_close(new[code], old[was], atol=5e-3, rtol=0)
        assert torch.equal(new[16:], old[16:]), "what is no code stays"


def test_a_model_goes_on_with_a_codec_that_calls_the_same_by_other_codes(
    encoded: Path, codec: Mimi, tokenizer_file: Path, training_corpus: Path, tmp_path: Path
) -> None:
    duplex(encoded, codec, tokenizer_file, tmp_path / "a").run()
    model, other, out = tmp_path / "a" / "model", tmp_path / "other", tmp_path / "out"
    old, new = load_codec(model, device="cpu"), load_codec(model, device="cpu", runtime="eager")
    for book in (*new.quantizer.first.codebooks, *new.quantizer.rest.codebooks):
        book.embedding.copy_(book.embedding.roll(1, 0))
    save_codec(other, new)
    used_s = translate_folder(model, str(other), [training_corpus], out, 60)
    assert 5 < used_s < 60
    assert codec_fingerprint(load_codec(out)) == codec_fingerprint(new)
    before, after = (load_duplex(folder)[0] for folder in (model, out))
    pcm = torch.from_numpy(read_channels(training_corpus.parent / "4.wav"))[None]
    bins = old.config.quantizer.bins
    for level, codes in enumerate(old.encode(pcm)[0]):
        code = int(codes.mode().values)
        for part in (f"emb.{level}", f"emb.{3 + level}", f"linears.{level}"):
            rows = [lm.get_submodule(part).weight for lm in (before, after)]
            expected, got = rows[0][code], rows[1][(code + 1) % bins]
            torch.testing.assert_close(got, expected, atol=0.1, rtol=0.1)
    with pytest.raises(CheckpointError, match="not empty"):
        translate_folder(model, str(other), [training_corpus], out, 60)


def test_duplex_run_goes_on_bit_for_bit(
    encoded: Path, codec: Mimi, tokenizer_file: Path, tmp_path: Path
) -> None:
    duplex(encoded, codec, tokenizer_file, tmp_path / "a").run()
    part = duplex(encoded, codec, tokenizer_file, tmp_path / "b")
    while part.run(stop_after_s=0.0) is not Outcome.FINISHED:
        part = duplex(encoded, codec, tokenizer_file, tmp_path / "b")
        assert part.resume()
    whole, parts = (load_newest(tmp_path / name / "checkpoints") for name in "ab")
    assert whole is not None
    assert parts is not None
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, parts.tensors[name]), name


def test_exported_duplex_folder_loads(
    encoded: Path, codec: Mimi, tokenizer_file: Path, tmp_path: Path
) -> None:
    trainer = duplex(encoded, codec, tokenizer_file, tmp_path)
    trainer.run()
    folder = tmp_path / "model"
    lm = duologue.load_lm(folder)
    loaded = duologue.load_codec(folder)
    assert loaded.num_codebooks == 3
    assert lm.config.rag_token_id == RETRIEVAL
    description = json.loads((folder / "config.json").read_text())
    shape = ReferenceConfig.from_options(description["conditioners"][REFERENCE]["arc_encoder"])
    encoder = load_reference_encoder(folder / "reference", shape)
    tokens = load_reference_tokenizer(folder / "reference").encode("paris")
    assert encoder([tokens])[0].shape == (encoder.rows(len(tokens)), 32)


def test_transcription_model_learns_and_exports(
    encoded: Path, codec: Mimi, tokenizer_file: Path, tmp_path: Path
) -> None:
    tables = {
        "lm": {
            "dim": 32, "num_heads": 2, "num_layers": 1, "hidden_scale": 2.0, "context": 120,
        },
        "run": {**RUN, "steps": 40, "evaluate_every": 40},
        "data": {"frames": 80, "text_delay_s": 0.48}, "forgotten": 0.2,
        "optimizer": {"lr": 0.004, "warmup_steps": 2}, "ema": 0.9, "held_out_sequences": 1,
    }  # fmt: skip
    config = parse(STTTrainingConfig, tables)
    task = STTTask(config, [encoded], codec, tokenizer_file, torch.device("cpu"))
    Trainer(task, config.run, tmp_path).run()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-2]["text"] < 0.5 * rows[0]["text"]
    assert 0 <= rows[-1]["pause_accuracy"] <= 1
    lm = duologue.load_lm(tmp_path / "model")
    assert (lm.config.dep_q, lm.config.n_q, len(lm.extra_heads)) == (0, 3, 4)


SPECTRA: dict[str, Any] = {
    "lm": {"dim": 32, "num_heads": 2, "num_layers": 1, "hidden_scale": 2.0, "context": 120},
    "run": {**RUN, "steps": 40, "evaluate_every": 40},
    "data": {"frames": 80, "text_delay_s": 0.48},
    "optimizer": {"lr": 0.004, "warmup_steps": 2}, "ema": 0.9, "held_out_sequences": 1,
    "front_end": {"channels": [8, 8, 8], "units": [0, 1, 0], "bands": 20},
}  # fmt: skip


def listening(dialogues: Path, tokenizer_file: Path, **changes: Any) -> STTTask:
    config = parse(STTTrainingConfig, {**copy.deepcopy(SPECTRA), **changes})
    return STTTask(config, [dialogues], None, tokenizer_file, torch.device("cpu"))


def test_how_many_hypotheses_are_followed_is_shipped(
    dialogues: Path, tokenizer_file: Path, tmp_path: Path
) -> None:
    task = listening(dialogues, tokenizer_file, beam={"width": 3, "wait": 2})
    task.export(tmp_path)
    shipped, alone = (
        load_recogniser(tmp_path / "model", device="cpu", searches=searches)
        for searches in (True, False)
    )
    assert (shipped.wait_frames, alone.wait_frames) == (2, 0)
    assert shipped.delay_s == pytest.approx(0.48 + 0.16)
    with pytest.raises(TrainingConfigError, match="beam: width 0"):
        listening(dialogues, tokenizer_file, beam={"width": 0})
    # What a model is told depends on it.
    names = [recogniser_fingerprint(one) for one in (shipped, alone)]
    assert names[0] == f"{names[1]}-3-2-4-2"


def test_regions_of_the_spectrum_move_and_change_by_themselves() -> None:
    still = {
        "tempo_share": 0.0, "formant_share": 0.0, "gain": (0.0, 0.0), "noise_share": 0.0,
        "tilt_share": 0.0, "blots": 0, "formant_shift_share": 0.0, "colour_share": 0.0,
        "blot_spectra": 1,
    }  # fmt: skip
    config = MelFrontEndConfig(dim=8)
    centres = band_centres(config).numpy()
    peaks = [10, 25, 45]
    spectra = np.full((4, config.bands), -8.0, dtype=np.float32)
    spectra[:, peaks] = 0.0

    def bent(seed: int, **changes: Any) -> NDArray[np.float32]:
        rng = np.random.default_rng(seed)
        return bend(spectra, centres, BendingConfig(**{**still, **changes}), rng)

    assert np.array_equal(bent(1), spectra)
    moved = [bent(seed, formant_shift_share=1.0, formant_shift=0.09) for seed in range(20)]
    found = np.array([[p - 5 + one[0][p - 5 : p + 6].argmax() for p in peaks] for one in moved])
    shifts = found - peaks
    assert np.abs(shifts).max() <= 4
    assert (shifts.std(0) > 0.4).all()
    assert np.abs(np.corrcoef(shifts.T)[0, 2]) < 0.8, "not all by the same"
    coloured = bent(3, colour_share=1.0, colour=0.5) - spectra
    assert np.ptp(coloured, axis=0) == pytest.approx(0.0, abs=1e-5)
    assert 0.1 < coloured[0].std() < 1.5
    assert np.abs(np.diff(coloured[0])).max() < 0.3, "smooth"


def test_a_model_with_a_front_end_learns_from_recordings(
    dialogues: Path, tokenizer_file: Path, tmp_path: Path
) -> None:
    task = listening(dialogues, tokenizer_file)
    Trainer(task, task.config.run, tmp_path).run()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-2]["text"] < 0.6 * rows[0]["text"]
    recogniser = load_recogniser(tmp_path / "model", device="cpu")
    assert isinstance(recogniser.front_end, MelFrontEnd)
    assert recogniser.delay_s == 0.48
    assert not list((tmp_path / "model").glob("codec*"))
    config = parse(STTTrainingConfig, copy.deepcopy(SPECTRA))
    again = STTTask(
        config, [dialogues], None, tokenizer_file, torch.device("cpu"),
        load_recogniser(tmp_path / "model", device="cpu", runtime="eager"),
    )  # fmt: skip
    for name, weight in recogniser.front_end.state_dict().items():
        assert torch.equal(again.front_end.state_dict()[name], weight), name


def test_a_run_may_start_from_a_model_of_fewer_layers(
    dialogues: Path, tokenizer_file: Path, tmp_path: Path
) -> None:
    small = listening(dialogues, tokenizer_file)
    small.export(tmp_path)
    start = load_recogniser(tmp_path / "model", device="cpu", runtime="eager", dtype=torch.float32)
    deep = {**SPECTRA["lm"], "num_layers": 3}
    config = parse(STTTrainingConfig, {**copy.deepcopy(SPECTRA), "lm": deep})
    grown = STTTask(config, [dialogues], None, tokenizer_file, torch.device("cpu"), start)
    batch = grown.sampler.batch(0, 2)
    with torch.no_grad():
        expected = STTTask(
            small.config, [dialogues], None, tokenizer_file, torch.device("cpu"), start
        )._predict(batch)
        for one, two in zip(grown._predict(batch)[:2], expected[:2], strict=True):
            torch.testing.assert_close(one, two)
    grown.learn([batch], 0, torch.Generator())
    weights = grown.lm.state_dict()
    for layer in (1, 2):
        assert weights[f"transformer.layers.{layer}.self_attn.out_proj.weight"].any()
    wide = parse(STTTrainingConfig, {**copy.deepcopy(SPECTRA), "lm": {**deep, "dim": 48}})
    with pytest.raises(TrainingStateError, match="does not fit"):
        STTTask(wide, [dialogues], None, tokenizer_file, torch.device("cpu"), start)


def test_what_is_learnt_is_what_a_recogniser_does(dialogues: Path, tokenizer_file: Path) -> None:
    """One step at a time, the same logits win as over a whole sequence."""
    task = listening(dialogues, tokenizer_file, optimizer={"lr": 0.05})
    for step in range(3):
        task.learn([task.sampler.batch(4 * step, 4)], step, torch.Generator())
    recogniser = Recogniser(task.lm, task.front_end, task.tokenizer, delay_s=0.48)
    frames = 30
    pcm = 0.1 * torch.randn(1, 1, frames * 1920)
    state = recogniser.init_state(1)
    heard = pcm.split(1920, dim=-1)[: frames - 1]
    first = state.text[0].clone()
    tokens = torch.stack([first, *(recogniser.step(one, state).text[0] for one in heard)])
    assert len(set(tokens.tolist())) > 1
    with torch.no_grad():
        batch = replace(
            task.sampler.batch(0, 1), codes=tokens[None, None],
            spectra=task.front_end.spectra(pcm[:, 0]),
        )  # fmt: skip
        logits = task._predict(batch)[0]
    assert torch.equal(logits[0].argmax(dim=-1), tokens)


def test_a_recogniser_forgets_and_mistakes_what_it_wrote(
    dialogues: Path, tokenizer_file: Path
) -> None:
    task = listening(dialogues, tokenizer_file, forgotten=0.3, mistaken=0.2)
    written = torch.full((40, 100), 7)
    written[:, ::2] = 3  # padding
    changed = written.clone()
    task._forget(changed, torch.Generator().manual_seed(1))
    assert torch.equal(changed[:, ::2], written[:, ::2]), "silence is remembered"
    pieces = changed[:, 1::2]
    assert (pieces == -1).float().mean() == pytest.approx(0.3, abs=0.05)
    wrong = (pieces != -1) & (pieces != 7)
    assert wrong.float().mean() == pytest.approx(0.2, abs=0.05)
    assert pieces[wrong].min() >= FIRST_PIECE
    assert pieces[wrong].max() < len(task.tokenizer)


def test_recordings_are_bent_where_they_are_learnt_from(
    dialogues: Path, tokenizer_file: Path
) -> None:
    plain = listening(dialogues, tokenizer_file).sampler
    one = plain.conversations[0]
    first, second = (plain.cut(one, 0, np.random.default_rng(s), blot=False) for s in (1, 2))
    assert np.array_equal(first.spectra, second.spectra)
    assert first.spectra.shape == (80 * 8, 20)
    pcm = torch.from_numpy(read_channels(one.path)[1])[None, : 80 * 1920]
    spectra = plain.front_end.spectra(pcm)[0].numpy()
    np.testing.assert_allclose(first.spectra, spectra, atol=0.02)

    quick = {"tempo": [1.25, 1.25], "tempo_share": 1.0}
    bent = listening(dialogues, tokenizer_file, bending=quick).sampler
    hurried = bent.cut(one, 0, np.random.default_rng(1))
    assert not np.allclose(hurried.spectra, first.spectra)
    # "what" is said at 0.5 s, or at 0.4 s: 0.48 s later it is written.
    assert [int((s.codes[0] > 4).argmax()) for s in (first, hurried)] == [12, 11]
    later = plain.cut(one, 5, np.random.default_rng(1), blot=False)
    assert (later.codes[0, :-5] == first.codes[0, 5:]).all()


def test_a_recogniser_without_a_front_end_needs_a_codec(
    encoded: Path, tokenizer_file: Path
) -> None:
    config = parse(
        STTTrainingConfig, {name: table for name, table in SPECTRA.items() if name != "front_end"}
    )
    with pytest.raises(DataError, match="name the codec"):
        STTTask(config, [encoded], None, tokenizer_file, torch.device("cpu"))


@pytest.fixture(scope="session")
def ears(dialogues: Path, tokenizer_file: Path) -> Recogniser:
    """A recogniser with a front end, hardly trained."""
    task = listening(dialogues, tokenizer_file)
    for step in range(3):
        task.learn([task.sampler.batch(4 * step, 4)], step, torch.Generator())
    for module in task.modules.values():
        module.requires_grad_(False)
    return Recogniser(task.lm, task.front_end, task.tokenizer, delay_s=0.48)


@pytest.fixture(scope="session")
def heard(
    dialogues: Path, codec: Mimi, ears: Recogniser, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("heard")
    encode_corpus(dialogues, codec, out, shard=2)
    assert hear_corpus(dialogues, out, ears) == 5
    return out


def test_a_recogniser_hears_a_corpus_as_it_hears_a_user(
    dialogues: Path, heard: Path, ears: Recogniser, encoded: Path, tmp_path: Path
) -> None:
    corpus = EncodedCorpus(heard)
    for index in (0, 4):
        one = corpus.conversations[index]
        pcm = read_channels(dialogues.parent / f"{index}.wav")[1]
        state, frames = ears.init_state(1), torch.from_numpy(pcm)[None, None].split(1920, dim=-1)
        vectors = torch.cat([ears.step(frame, state).vector for frame in frames])
        assert one.vectors.shape == (100, 32)
        torch.testing.assert_close(one.vectors.float(), vectors, atol=2e-3, rtol=2e-3)
    written = {path: path.stat().st_mtime_ns for path in heard.glob("heard_*")}
    assert len(written) == 4
    hear_corpus(dialogues, heard, ears)
    assert written == {path: path.stat().st_mtime_ns for path in heard.glob("heard_*")}
    other = copy.deepcopy(ears)
    other.lm.out_norm.alpha.data.add_(1)
    with pytest.raises(DataError, match="another recogniser"):
        hear_corpus(dialogues, heard, other)
    assert EncodedCorpus(encoded).conversations[0].vectors is None
    anew = Path(shutil.copytree(heard, tmp_path / "anew"))
    hear_corpus(dialogues, anew, other, renew=True)
    before, after = (EncodedCorpus(one).conversations[0].vectors for one in (heard, anew))
    assert not torch.equal(before, after)


def test_a_model_learns_from_what_a_recogniser_makes_of_the_user(
    encoded: Path, heard: Path, codec: Mimi, tokenizer_file: Path, tmp_path: Path
) -> None:
    listens = {"heard_dim": 32}
    first = duplex(encoded, codec, tokenizer_file, tmp_path / "first")
    first.run()
    trainer = duplex(
        heard, codec, tokenizer_file, tmp_path / "second", lm=listens,
        start=load_duplex(tmp_path / "first" / "model"),
    )  # fmt: skip
    assert not trainer.task.lm.hearing.weight.any(), "it begins as it was"
    trainer.run()
    assert trainer.task.lm.hearing.weight.any()
    lm = duologue.load_lm(tmp_path / "second" / "model")
    assert lm.config.heard_dim == 32
    assert duologue.load_lm(tmp_path / "first" / "model").config.heard_dim is None
    with pytest.raises(DataError, match="heard_dim is 32, but a recogniser told 0"):
        duplex(encoded, codec, tokenizer_file, tmp_path / "third", lm=listens)


def test_what_was_heard_is_read_when_a_running_model_reads_it(
    heard: Path, codec: Mimi, tokenizer_file: Path, tmp_path: Path
) -> None:
    """Text logits of a whole sequence are those of one step after the other."""
    task = duplex(heard, codec, tokenizer_file, tmp_path, lm={"heard_dim": 32}).task
    torch.nn.init.normal_(task.lm.hearing.weight)
    task.sampler.conversations = task.sampler.conversations[:1]
    cut = task.sampler.cut(task.sampler.conversations[0], 0, np.random.default_rng(0))
    cut.references.clear()
    batch = collate([cut])
    assert batch.vectors.shape == (1, 80, 32)
    with torch.no_grad():
        whole = task._predict(batch, None).text[0]
    own = task.lm.config.dep_q
    generator = task.lm.generator(1)
    drawn = [generator.step(None, text=batch.codes[:, 0, 0], audio=_delayed(batch, 0, own))]
    for t in range(40):
        generator.hear(batch.vectors[:, t])
        user = batch.codes[:, 1 + own :, t, None]
        text, audio = batch.codes[:, 0, t + 1], _delayed(batch, t + 1, own)
        drawn.append(generator.step(user, text=text, audio=audio))
    stepped = torch.cat([out.text_logits for out in drawn])
    torch.testing.assert_close(stepped, whole[:41], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(stepped[5:], _unheard(task, batch)[5:41], atol=1e-3)


def _delayed(batch: LMBatch, step: int, own: int) -> torch.Tensor:
    """Own codes that are drawn at a step: the first at once, the others a frame later."""
    codes = batch.codes[:, 1 : 1 + own]
    late = codes[:, :, max(0, step - 1)]
    return torch.cat([codes[:, :1, step], late[:, 1:]], dim=1)


def _unheard(task: DuplexTask, batch: LMBatch) -> torch.Tensor:
    with torch.no_grad():
        return task._predict(replace(batch, vectors=None), None).text[0]


def test_users_are_forgotten_and_silence_is_heard_in_exercises(
    heard: Path, codec: Mimi, tokenizer_file: Path, tmp_path: Path
) -> None:
    task = duplex(heard, codec, tokenizer_file, tmp_path, lm={"heard_dim": 32}).task
    task.config = replace(task.config, unheard=0.5)
    vectors = torch.ones(200, 3, 32)
    kept = task._forgetting(vectors, torch.Generator().manual_seed(0))[:, 0, 0]
    assert 70 < kept.sum() < 130
    assert torch.equal(task._forgetting(vectors, None), vectors)
    corpus = EncodedCorpus(heard)
    one = corpus.conversations[0]
    half = replace(one, codes=one.codes[: len(one.codes) // 2])
    for exercise in ("dictation", "listening"):
        sampler = ExerciseSampler(
            exercise, [half], ExerciseConfig(frames=40), SequenceConfig(), Letters(),
            silence=torch.zeros(3), frame_rate=12.5, silent_vector=corpus.silent_vector,
        )  # fmt: skip
        cut = sampler.cut(half, 0, np.random.default_rng(0))
        silent = (cut.vectors == corpus.silent_vector.numpy()).all(axis=1)
        assert silent.all() == (exercise == "dictation")
        assert silent[0]
        assert cut.vectors.shape == (40, 32)


def test_blotting_takes_heard_codes_and_nothing_else(encoded: Path, tokenizer_file: Path) -> None:
    conversations = EncodedCorpus(encoded).conversations
    config = SequenceConfig(frames=80, masked_codes=0.2, masked_spans=2, fewer_levels=1.0)
    sampler = TranscriptionSampler(
        conversations, config, TextTokenizer(tokenizer_file), seed=0, frame_rate=12.5
    )
    plain = sampler.cut(conversations[0], 0, np.random.default_rng(1), blot=False)
    blotted = sampler.cut(conversations[0], 0, np.random.default_rng(1))
    heard, left = plain.codes[1:], blotted.codes[1:]
    assert (plain.codes[0] == blotted.codes[0]).all()
    assert ((left == heard) | (left == -1)).all()
    assert 0.15 < (left[0] == -1).mean() < 0.4
    assert (left[-1] == -1).all() or (left[1] == -1).mean() < 0.5


def test_tokenizer_spells_what_it_has_not_seen(tokenizer_file: Path) -> None:
    tokenizer = TextTokenizer(tokenizer_file)
    assert tokenizer.piece(RETRIEVAL) == "<ret>"
    stream = tokenizer.stream()
    tokens = tokenizer.encode("Zürich xyz")
    assert min(tokens) > RETRIEVAL
    assert "".join(map(stream.push, tokens)).strip() == "Zürich xyz"


@pytest.mark.parametrize(("late", "between_s"), [(0.0, (0.15, 0.45)), (1.0, (0.6, 2.4))])
def test_replies_of_scripts_come_late_where_they_are_to(
    late: float, between_s: tuple[float, float], tokenizer_file: Path
) -> None:
    tokenizer = TextTokenizer(tokenizer_file)
    sampler = ScriptSampler(
        ScriptConfig(frames=100, late=late), SequenceConfig(), tokenizer,
        reference_tokenizer=tokenizer, rows=4, frame_rate=12.5,
    )  # fmt: skip
    gaps = []
    for index in range(20):
        turns = sampler._conversation(index, "small_talk").facts["turns"]
        gaps += [
            after["start"] - before["end"]
            for before, after in pairwise(turns)
            if (before["speaker"], after["speaker"]) == (OTHER, MAIN)
        ]
    assert len(gaps) > 15
    usual = [gap for gap in gaps if between_s[0] <= gap <= between_s[1]]
    assert len(usual) >= 0.9 * len(gaps), "but for interruptions"
