"""The duplex task: wren's language model and its reference encoder, from nothing.

Text cross-entropy with light padding, audio cross-entropy with a heavy first codebook (Moshi,
arXiv 2410.00037, section 3.4); the depth stack sees a random part of the frames. References are
encoded by a small encoder that learns along, and their rows are added to the inputs from the frame
of arrival on (MoshiRAG, arXiv 2604.12928). A run may begin with text alone: copying a reference
into the text stream is learnt much faster without sound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from duologue.audio.wav import write_wav
from duologue.checkpoints.folder import FolderConfig
from duologue.checkpoints.load import load_lm
from duologue.checkpoints.reference import load_reference_encoder
from duologue.checkpoints.save import write_tensors
from duologue.checkpoints.tokenizer import TextTokenizer
from duologue.conditioning.provider import (
    MAIN,
    OTHER,
    ConditionProvider,
    FuserConfig,
    LutConditioner,
)
from duologue.conditioning.reference import ReferenceEncoder
from duologue.mimi.codec import Mimi
from duologue.moshi.config import LMConfig
from duologue.moshi.lm import MoshiLM
from duologue.moshi.sampling import Sampling
from duologue.training.checkpoint import TrainingStateError
from duologue.training.code_embeddings import begin_with_codebooks
from duologue.training.compiling import compiled
from duologue.training.data import DataError, batches
from duologue.training.encoded import Conversation
from duologue.training.exercises import (
    CORPORA,
    Exercise,
    ExerciseConfig,
    ExerciseSampler,
    Room,
    SpokenPhones,
    rooms_of,
)
from duologue.training.language import (
    CODEC_CONFIG_NAME,
    CODEC_NAME,
    Corpus,
    LanguageTask,
    LanguageTrainingConfig,
    go_on_from,
    save_model_folder,
    spread,
)
from duologue.training.lm_data import DuplexSampler, LMBatch, Reference
from duologue.training.lm_losses import audio_loss, delayed, hint_loss, recall, text_loss
from duologue.training.phones import PhoneHints
from duologue.training.scripts import MixedSource, ScriptConfig, ScriptSampler
from duologue.training.text_stream import FIRST_PIECE, RETRIEVAL

REFERENCE, FIRST_SPEAKER = "reference_with_time", "first_speaker"
"""Names of the conditioners, as in the published model."""
_FIRST_SPEAKER = {"n_bins": 2, "dim": 16, "tokenizer": "noop", "possible_values": [MAIN, OTHER]}


class Scores:
    """Weighted means by name."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, name: str, value: float, count: float) -> None:
        """A sum over so many cases."""
        before, cases = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = before + value, cases + count

    def means(self) -> dict[str, float]:
        return {name: value / max(count, 1e-9) for name, (value, count) in self._sums.items()}


@dataclass(frozen=True)
class DuplexLossConfig:
    """Weights of the published recipe, unless a recipe says otherwise."""

    padding: float = 0.5
    retrieval: float = 1.0
    """Of the retrieval token, against its rarity."""
    first_codebook: float = 100.0
    audio: float = 1.0
    heard: float = 0.0
    """Of the user's words, `data.aside_delay_s` late, which a head names while it is trained: a
    model that knows what was said learns sooner when to look something up."""
    depth_frames: int = 0
    """Frames of each sequence that the depth stack learns from in a step; 0 is all of them."""


@dataclass(frozen=True)
class DuplexTrainingConfig(LanguageTrainingConfig):
    """A duplex model's training."""

    reference: dict[str, Any] = field(default_factory=dict)
    """Shape of the reference encoder, in the keys of a published conditioner block."""
    losses: DuplexLossConfig = field(default_factory=DuplexLossConfig)
    scripts: ScriptConfig = field(default_factory=ScriptConfig)
    dictation: ExerciseConfig = field(default_factory=ExerciseConfig)
    listening: ExerciseConfig = field(default_factory=ExerciseConfig)
    hints: PhoneHints = field(default_factory=PhoneHints)
    """Phones of its own that are learnt beside the sound in dictation: how names are spoken."""
    unheard: float = 0.1
    """Share of sequences in which the model is not told what a recogniser makes of the user."""
    generation: dict[str, float] = field(default_factory=dict)
    """How the finished model draws unless told otherwise, in the published keys: `temp_text`,
    `top_k_text`, `temp`, `top_k`; and `pooled_from_text` (see `Sampling.pooled_from`) and `quoting`
    (see `GenerationDefaults.quoting`)."""
    floor: dict[str, Any] | None = None
    """The finished model's floor policy (`duologue.dialogue.FloorRules`); none if not given."""
    samples: int = 2
    sample_s: float = 12.0


@dataclass(frozen=True)
class _Prediction:
    """What a pass gives, and what it should have given."""

    z: Tensor
    """[B, T, dim]"""
    text: Tensor
    """Logits [B, T, classes]."""
    heard: Tensor
    """Of the user's words, likewise."""
    audio: Tensor
    """Logits of codes [B, K, T', card], of some of the frames."""
    targets: Tensor
    """int64 [B, rows, T]"""
    audio_targets: Tensor
    """int64 [B, K, T']"""


class DuplexTask(LanguageTask):
    """Trains a `MoshiLM` with a `ReferenceEncoder`."""

    kind = "lm"
    config: DuplexTrainingConfig
    sampler: DuplexSampler

    def __init__(
        self,
        config: DuplexTrainingConfig,
        corpus: Corpus,
        codec: Mimi,
        tokenizer: Path,
        reference_tokenizer: Path,
        device: torch.device,
        start: tuple[MoshiLM, ReferenceEncoder] | None = None,
    ) -> None:
        """`start` is a model of the same shape to go on from."""
        self.codec = codec
        self.tokenizer_path, self.reference_tokenizer_path = tokenizer, reference_tokenizer
        self.tokenizer = TextTokenizer(tokenizer)
        references = TextTokenizer(reference_tokenizer)
        lm_config = LMConfig.from_dict(
            {"text_card": len(self.tokenizer), "card": codec.config.quantizer.bins, **config.lm}
        )
        options = dict(config.reference)
        options["embedder_params"] = {
            "vocab_size": len(references), **options.get("embedder_params", {}),
        }  # fmt: skip
        books = lm_config.dep_q
        if not books == lm_config.n_q - books == corpus.codebooks:
            raise DataError(
                f"the corpora have {corpus.codebooks} codebooks of each side, the model {books} of "
                f"its own and {lm_config.n_q - books} of the user's; encode them with as many "
                "(`train encode --codebooks`)"
            )
        self.conditioners = {
            FIRST_SPEAKER: {"type": "lut", "lut": _FIRST_SPEAKER},
            REFERENCE: {"type": "arc_encoder", "arc_encoder": options},
        }
        self.fuser = FuserConfig(sum=(FIRST_SPEAKER,), streaming_sum=(REFERENCE,))
        torch.manual_seed(config.run.seed)
        provider = ConditionProvider(lm_config.dim, self.conditioners, self.fuser)
        self.lm = MoshiLM(lm_config, provider)
        conditioner = provider.reference
        assert conditioner is not None
        self.conditioner = conditioner
        self.encoder = ReferenceEncoder(conditioner.config)
        tables, own = self.lm.code_tables(), lm_config.dep_q
        for part, seed in ((tables[:own], 1), (tables[own:], 2)):
            begin_with_codebooks(part, codec.quantizer, seed=config.run.seed + seed)
        if start is not None:
            # A model that was never told who begins goes on as before, and learns to be told.
            new = self.lm.condition_provider.conditioners[FIRST_SPEAKER]
            assert isinstance(new, LutConditioner)
            nn.init.zeros_(new.output_proj.weight)
            nn.init.zeros_(new.learnt_padding)
            new_parts = (f"condition_provider.conditioners.{FIRST_SPEAKER}.", "hearing.")
            go_on_from(self.lm, start[0], optional=new_parts)
            go_on_from(self.encoder, start[1])
        self.listener = nn.Linear(lm_config.dim, lm_config.text_classes)
        self._transform = compiled(self.lm.transformer.forward, config.compile)
        self._depth_logits = compiled(self.lm.depth_logits, config.compile)
        self._text_loss = compiled(text_loss, config.compile)
        self._audio_loss = compiled(audio_loss, config.compile)
        hints = config.hints
        phones = hints.choose(one.facts.get("phones") for one in corpus.train)
        self.spoken = SpokenPhones(phones, hints.parts_per_frame, lm_config.delays[1])
        self.hints = nn.Linear(lm_config.dim, hints.parts_per_frame * len(phones))
        modules = {
            "lm": self.lm, "reference": self.encoder, "listener": self.listener,
            "hints": self.hints,
        }  # fmt: skip
        told = 0 if corpus.silent_vector is None else len(corpus.silent_vector)
        if lm_config.heard_dim not in (None, told):
            raise DataError(
                f"heard_dim is {lm_config.heard_dim}, but a recogniser told {told} numbers a frame "
                "of these corpora (`train hear`)"
            )
        users = [one for one in (*corpus.train, *corpus.held_out) if one.has_user]
        if lm_config.heard_dim and any(one.vectors is None for one in users):
            raise DataError("not all users were heard by the recogniser (`train hear`)")
        super().__init__(config, modules, corpus, device)
        self.sampler = DuplexSampler(
            [one for one in corpus.train if one.is_dialogue], config.data, self.tokenizer,
            reference_tokenizer=references, seed=config.run.seed, frame_rate=corpus.frame_rate,
        )  # fmt: skip
        silence = codec.silent_column().cpu()
        told_of = None if lm_config.heard_dim is None else corpus.pieces
        scripts, unseen = (
            ScriptSampler(
                config.scripts, config.data, self.tokenizer, reference_tokenizer=references,
                rows=lm_config.n_q, frame_rate=corpus.frame_rate, split=split,
                silence=silence, silent_vector=corpus.silent_vector, pieces=told_of,
            )
            for split in ("train", "valid")
        )  # fmt: skip
        self.unseen_scripts = unseen
        amounts: dict[Exercise, ExerciseConfig] = {
            "dictation": config.dictation, "listening": config.listening,
        }  # fmt: skip
        chosen = {name: amount for name, amount in amounts.items() if amount.share}
        exercises = [self._exercise(name, amount, silence) for name, amount in chosen.items()]
        self.source = MixedSource(
            self.sampler, scripts, exercises,
            positions=config.run.batch * config.run.accumulate, seed=config.run.seed,
        )  # fmt: skip

    def _rooms(self, amount: ExerciseConfig) -> list[Room]:
        if not amount.rooms:
            return []
        rooms = rooms_of(self.sampler.conversations, self.corpus.frame_rate)
        if not rooms:
            raise DataError("rooms: no user of these dialogues is silent for two seconds")
        return rooms

    def _exercise(
        self, exercise: Exercise, amount: ExerciseConfig, silence: Tensor
    ) -> ExerciseSampler:
        kind = CORPORA[exercise]
        sentences = [one for one in self.corpus.train if one.facts.get("kind") == kind]
        if not sentences:
            raise DataError(f"{exercise}: there is no corpus of the kind {kind!r} among the data")
        return ExerciseSampler(
            exercise, sentences, amount, self.config.data, self.tokenizer,
            silence=silence, frame_rate=self.corpus.frame_rate,
            silent_vector=self.corpus.silent_vector,
            hints=self.spoken if self.config.hints.weight else None,
            reference_tokenizer=self.sampler.tokenizer_of_references, rooms=self._rooms(amount),
        )  # fmt: skip

    def batches(self, position: int) -> Iterator[LMBatch]:
        return batches(self.source, position, self.config.run.batch)

    def losses(
        self, batch: LMBatch, step: int, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weights = self.config.losses
        made = self._predict(batch, generator)
        if batch.exercise == "listening":
            words = self._heard_loss(made, batch)
            return weights.heard * words, {"listened": words}
        text = self._text_loss(
            made.text, made.targets[:, 0], padding_weight=weights.padding,
            special={RETRIEVAL: weights.retrieval},
        )  # fmt: skip
        if not batch.has_audio:
            return text, {"text": text}
        audio, each = self._audio_loss(
            made.audio, made.audio_targets, first_weight=weights.first_codebook
        )
        if batch.exercise == "dictation":
            report = {"dictated": audio, "dictated_first": each[0]}
            loss = weights.audio * audio
            if self.config.hints.weight:
                report["spoken_phones"] = hint_loss(self.hints(made.z), batch.aside[..., 1:])
                loss = loss + self.config.hints.weight * report["spoken_phones"]
            return loss, report
        report = {"text": text, "audio": audio, "first_codebook": each[0]}
        report["last_codebook"] = each[-1]
        loss = text + weights.audio * audio
        if weights.heard:
            report["heard"] = self._heard_loss(made, batch)
            loss = loss + weights.heard * report["heard"]
        return loss, report

    def _heard_loss(self, made: _Prediction, batch: LMBatch) -> Tensor:
        padding = self.config.losses.padding
        return self._text_loss(made.heard, batch.aside[..., 0], padding_weight=padding, special={})

    def _predict(self, batch: LMBatch, generator: torch.Generator | None) -> _Prediction:
        inputs, targets = delayed(batch.codes, self.lm.config)
        with self.config.run.autocast(self.device):
            x = self.lm.embed(inputs) + self._reference_rows(batch) + self._first_speakers(batch)
            if self.lm.config.heard_dim is not None and batch.vectors is not None:
                vectors = self._forgetting(batch.vectors, generator)
                # As codes are, what was heard in a frame is read one position later.
                x = x + nn.functional.pad(self.lm.hearing(vectors)[:, :-1], (0, 0, 1, 0))
            z, text_logits = self.lm.head(self._transform(x))
            heard = self.listener(z)
            if not batch.has_audio or batch.exercise == "listening":
                nothing = targets[:, 1:1, :0]
                return _Prediction(z, text_logits, heard, z.new_zeros(0), targets, nothing)
            of, columns = z, targets
            chosen = self._draw_frames(targets, generator)
            if chosen is not None:
                of = z.gather(1, chosen[..., None].expand(-1, -1, z.shape[-1]))
                columns = targets.gather(2, chosen[:, None].expand(-1, targets.shape[1], -1))
            audio_logits = self._depth_logits(of, columns)
        audio_targets = columns[:, 1 : 1 + self.lm.config.dep_q]
        return _Prediction(z, text_logits, heard, audio_logits, targets, audio_targets)

    def _forgetting(self, vectors: Tensor, generator: torch.Generator | None) -> Tensor:
        """The same, some sequences without: there may be no recogniser."""
        if generator is None or not self.config.unheard:
            return vectors
        kept = torch.rand(len(vectors), generator=generator) >= self.config.unheard
        return vectors * kept[:, None, None].to(vectors)

    def _draw_frames(self, targets: Tensor, generator: torch.Generator | None) -> Tensor | None:
        count, length = self.config.losses.depth_frames, targets.shape[2]
        if generator is None or not 0 < count < length:
            return None
        drawn = torch.rand(targets.shape[0], length, generator=generator)
        return drawn.argsort(dim=1)[:, :count].sort(dim=1).values.to(targets.device)

    def _first_speakers(self, batch: LMBatch) -> Tensor:
        """What is added to all frames of each sequence: [B, 1, dim]."""
        given = [{FIRST_SPEAKER: who} if who else {} for who in batch.first_speakers]
        total = self.lm.condition_provider(given).sum
        assert total is not None
        return total

    def _reference_rows(self, batch: LMBatch) -> Tensor:
        """Rows of references at their frames: [B, T, dim]."""
        length = batch.codes.shape[2]
        rows = torch.zeros(batch.codes.shape[0], length, self.lm.config.dim, device=self.device)
        encoded = self.encode([r.tokens for r in batch.references if r.tokens is not None])
        given = iter(encoded)
        added = []
        for reference in sorted(batch.references, key=lambda r: r.tokens is None):
            vectors = self.conditioner.absent if reference.tokens is None else next(given)
            count = min(len(vectors), length - reference.frame)
            added.append((reference, vectors[:count]))
        # Later references replace what is left of earlier ones, as in a running conversation.
        for reference, vectors in sorted(added, key=lambda pair: (pair[0].item, pair[0].frame)):
            mask = torch.zeros_like(rows[:, :, :1])
            mask[reference.item, reference.frame :] = 1
            placed = torch.zeros_like(rows)
            end = reference.frame + len(vectors)
            placed[reference.item, reference.frame : end] = vectors.to(rows.dtype)
            rows = rows * (1 - mask) + placed
        return rows

    def encode(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Token ids of references -> rows for the model's input, one list each."""
        return [self.conditioner(vectors) for vectors in self.encoder(texts)]

    def held_out_batches(self) -> Iterator[LMBatch]:
        dialogues = [one for one in self.corpus.held_out if one.is_dialogue]
        yield from self.first_sequences(spread(dialogues, self.config.held_out_sequences))

    @torch.no_grad()
    def evaluate(self, step: int, samples: Path) -> dict[str, float]:
        weights, scores = self.config.losses, Scores()
        with self.swapped():
            for batch in self.held_out_batches():
                batch = batch.to(self.device)
                made = self._predict(batch, None)
                audio, each = audio_loss(
                    made.audio, made.audio_targets, first_weight=weights.first_codebook
                )
                for name, value in {
                    "audio": audio, "first_codebook": each[0], "last_codebook": each[-1],
                }.items():  # fmt: skip
                    scores.add(name, float(value) * len(batch.codes), len(batch.codes))
                self._score_text(scores, "", made, batch)
                said = batch.aside[..., 0]
                named = recall(made.heard.argmax(dim=-1), said, said >= FIRST_PIECE)
                scores.add("heard_accuracy", *named)
            if self.config.scripts.first_steps or self.config.scripts.share:
                batch = self.unseen_scripts.batch(0, 2 * self.config.scripts.batch)
                made = self._predict(batch.to(self.device), None)
                self._score_text(scores, "script_", made, batch)
            self._write_samples(samples)
        return scores.means()

    def _score_text(self, scores: Scores, prefix: str, made: _Prediction, batch: LMBatch) -> None:
        """Loss; the right piece where one is said; the same of references; retrieval tokens."""
        logits, truth = made.text, made.targets[:, 0]
        padding = self.config.losses.padding
        loss = text_loss(logits, truth, padding_weight=padding, special={})
        scores.add(prefix + "text", float(loss) * len(truth), len(truth))
        guesses = logits.argmax(dim=-1)
        chosen = logits[..., FIRST_PIECE:].argmax(dim=-1) + FIRST_PIECE
        pieces = truth >= FIRST_PIECE
        grounded = batch.grounded.to(truth.device)
        scores.add(prefix + "piece_accuracy", *recall(chosen, truth, pieces))
        scores.add(prefix + "grounded_accuracy", *recall(chosen, truth, pieces & grounded))
        if not batch.has_audio:
            return
        scores.add("retrieval_recall", *recall(guesses, truth, truth == RETRIEVAL))
        false = float(((guesses == RETRIEVAL) & (truth != RETRIEVAL)).sum())
        minutes = float((truth >= 0).sum()) / self.corpus.frame_rate / 60
        scores.add("retrieval_false_per_minute", false, minutes)

    def _write_samples(self, folder: Path) -> None:
        """Let the model talk to held-out users; lookups answer when they did in the recording."""
        dialogues = [one for one in self.corpus.held_out if one.is_dialogue]
        for index, one in enumerate(spread(dialogues, self.config.samples)):
            pcm, text = self.converse(one)
            folder.mkdir(parents=True, exist_ok=True)
            write_wav(folder / f"{index:02d}.wav", pcm, self.codec.sample_rate)
            (folder / f"{index:02d}.txt").write_text(text + "\n", encoding="utf-8")

    @torch.no_grad()
    def converse(self, one: Conversation) -> tuple[np.ndarray, str]:
        """The model's side of a recorded conversation: samples [2, T] (agent, user), and text."""
        frames = min(one.frames, int(self.config.sample_s * self.corpus.frame_rate))
        codes = one.codes[:, :frames].long().to(self.device)
        half = codes.shape[0] // 2
        begins = {FIRST_SPEAKER: one.first_speaker} if one.first_speaker else None
        generator = self.lm.generator(1, sampling=Sampling(0.7, 50), seed=0, conditions=begins)
        arrivals = {r.frame: r for r in self._arrivals(one)}
        words, spoken = self.tokenizer.stream(), []
        text = ""
        for frame in range(frames):
            if frame in arrivals:
                tokens = arrivals[frame].tokens
                rows = self.conditioner.absent if tokens is None else self.encode([tokens])[0]
                generator.set_reference(0, rows)
            if generator.state.heard is not None and one.vectors is not None:
                generator.hear(one.vectors[frame][None].float().to(self.device))
            out = generator.step(codes[None, half:, frame : frame + 1])
            token = int(out.sampled_text[0])
            if token == RETRIEVAL:
                text += words.flush() + " [RET]"
            elif token >= FIRST_PIECE:
                text += words.push(token)
            if bool(out.ready[0]):
                spoken.append(out.audio[0])
        mine = torch.stack(spoken, dim=1)[None].clamp(min=0)
        both = [self.codec.decode(mine)[0, 0], self.codec.decode(codes[None, half:])[0, 0]]
        length = min(len(pcm) for pcm in both)
        return torch.stack([pcm[:length] for pcm in both]).float().cpu().numpy(), text.strip()

    def _arrivals(self, one: Conversation) -> list[Reference]:
        sampler = self.sampler
        assert isinstance(sampler, DuplexSampler)
        found = []
        for lookup in one.facts.get("retrieval") or ():
            if lookup.get("arrival_time") is not None:
                frame = int(np.ceil(lookup["arrival_time"] * self.corpus.frame_rate))
                tokens = tuple(sampler.tokenizer_of_references.encode(lookup["reference_text"]))
                good = lookup["outcome"] == "found" and tokens
                found.append(Reference(0, frame, tokens if good else None))
        return found

    def export(self, folder: Path) -> None:
        described = FolderConfig(
            self.lm.config, mimi_name=CODEC_NAME, mimi_config_name=CODEC_CONFIG_NAME,
            tokenizer_name="tokenizer.model", conditioners=self.conditioners, fuser=self.fuser,
            lm_gen_config=self.config.generation, floor=self.config.floor,
            heard_from=self.corpus.recogniser,
        )  # fmt: skip
        dtype = getattr(torch, self.config.export_dtype)
        target = folder / "model"
        with self.swapped():
            save_model_folder(target, self.lm, described, self.codec, self.tokenizer_path, dtype)
            weights = {name: t.to(dtype) for name, t in self.encoder.state_dict().items()}
            write_tensors(target / "reference" / "model.safetensors", weights, {})
        copy = target / "reference" / "tokenizer.model"
        copy.write_bytes(self.reference_tokenizer_path.read_bytes())


def load_duplex(folder: Path) -> tuple[MoshiLM, ReferenceEncoder]:
    """A model folder's language model and reference encoder, to start a training from.

    Raises:
        CheckpointError: something is missing there.
    """
    lm = load_lm(folder, device="cpu", dtype=torch.float32)
    conditioner = lm.condition_provider.reference
    if conditioner is None:
        raise TrainingStateError(f"{folder}: this model takes no references")
    encoder = load_reference_encoder(folder / "reference", conditioner.config)
    return lm, encoder
