"""The transcription task: a delayed-streams model that hears a frame at a time and writes words.

The text row lags behind what is heard by a fixed delay (delayed-streams modelling,
arXiv 2509.08753); beside it, heads say whether it stays silent for half a second, one, two and
three seconds. Frames are heard as a codec's codes, as in the published models, or through a front
end that is learnt with the rest (`duologue.stt.front_end`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from duologue.checkpoints.folder import FolderConfig
from duologue.checkpoints.tokenizer import TextTokenizer
from duologue.mimi.codec import Mimi
from duologue.moshi.config import LMConfig
from duologue.moshi.lm import MoshiLM
from duologue.stt import beam, front_end_file
from duologue.stt.beam import BeamConfig
from duologue.stt.front_end import MelFrontEnd, MelFrontEndConfig
from duologue.stt.recogniser import Recogniser
from duologue.training.code_embeddings import begin_with_codebooks
from duologue.training.compiling import compiled
from duologue.training.data import DataError
from duologue.training.exactness import keep_exact
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
from duologue.training.lm_data import ZERO, LMBatch, TranscriptionSampler
from duologue.training.lm_losses import delayed, hint_loss, pause_loss, recall, text_loss
from duologue.training.phones import PhoneHints
from duologue.training.sound import BendingConfig, SoundSampler, sound_corpus
from duologue.training.text_stream import FIRST_PIECE

HORIZONS_S = (0.5, 1.0, 2.0, 3.0)
"""What the pause heads look ahead, as in the published model."""


@dataclass(frozen=True)
class STTTrainingConfig(LanguageTrainingConfig):
    """A transcription model's training; `data.text_delay_s` is its delay."""

    padding: float = 0.5
    """Weight of padding tokens."""
    pauses: float = 0.2
    """Weight of the pause heads."""
    forgotten: float = 0.0
    """Share of what it has written that the model does not get back, so that it listens to what is
    said rather than goes on with sentences that it knows."""
    mistaken: float = 0.0
    """Share that it gets back as another piece, so that it finds its way back from mistakes."""
    aside: PhoneHints = field(default_factory=PhoneHints)
    front_end: dict[str, Any] | None = None
    """Shape of a front end of its own (`MelFrontEndConfig`); codes are heard without one."""
    bending: BendingConfig = field(default_factory=BendingConfig)
    """How what a front end hears is changed in passing."""
    beam: BeamConfig | None = None
    """How many hypotheses the exported model follows; one without."""


class STTTask(LanguageTask):
    """Trains a `MoshiLM` that generates no audio, and its front end if it has one of its own."""

    kind = "stt"
    config: STTTrainingConfig

    def __init__(
        self,
        config: STTTrainingConfig,
        data: Sequence[Path],
        codec: Mimi | None,
        tokenizer: Path,
        device: torch.device,
        start: Recogniser | None = None,
    ) -> None:
        """
        Args:
            data: encoded corpora, or manifests for a model with a front end of its own.
            codec: whose codes are heard; not needed with a front end.
            start: a recogniser of the same shape to go on from.

        Raises:
            DataError: the data do not suit the codec, or there is no codec.
        """
        self.tokenizer_path, self.tokenizer = tokenizer, TextTokenizer(tokenizer)
        torch.manual_seed(config.run.seed)
        self.front_end = None
        if config.front_end is not None:
            shape = {"dim": config.lm.get("dim", 0), **config.front_end}
            self.front_end = MelFrontEnd(MelFrontEndConfig.from_dict(shape))
            corpus = sound_corpus(data, self.front_end)
        elif codec is None:
            raise DataError("a recogniser without a front end hears codes: name the codec")
        else:
            corpus = Corpus.of(data, codec)
        self.codec = None if self.front_end is not None else codec
        if self.front_end is not None:
            keep_exact(self.front_end, config.run.dtype, device)
            self._hear = compiled(self.front_end.forward, config.compile)
        heard = corpus.codebooks
        lm_config = LMConfig.from_dict(
            {
                "text_card": len(self.tokenizer),
                "card": 1 if self.codec is None else self.codec.config.quantizer.bins,
                "n_q": heard,
                "dep_q": 0,
                "delays": [0] * (1 + heard),
                "extra_heads_num_heads": len(HORIZONS_S),
                **config.lm,
            }
        )
        self.lm = MoshiLM(lm_config)
        modules: dict[str, nn.Module] = {"lm": self.lm}
        if self.codec is not None:
            tables = self.lm.code_tables()
            begin_with_codebooks(tables, self.codec.quantizer, seed=config.run.seed)
        if self.front_end is not None:
            modules["front_end"] = self.front_end
        if start is not None:
            go_on_from(self.lm, start.lm)
            if self.front_end is not None and isinstance(start.front_end, MelFrontEnd):
                go_on_from(self.front_end, start.front_end)
        hints = config.aside
        phones = hints.choose(one.facts.get("phones") for one in corpus.train)
        self.hints = nn.Linear(lm_config.dim, hints.parts_per_frame * len(phones))
        self._transform = compiled(self.lm.transformer.forward, config.compile)
        self._text_loss = compiled(text_loss, config.compile)
        super().__init__(config, {**modules, "hints": self.hints}, corpus, device)
        kind: type[TranscriptionSampler] = TranscriptionSampler
        options: dict[str, Any] = {}
        if self.front_end is not None:
            # Spectra are computed beside the training, and on the CPU.
            hearing = MelFrontEnd(self.front_end.config)
            kind, options = SoundSampler, {"front_end": hearing, "bending": config.bending}
        self.sampler = kind(
            corpus.train, config.data, self.tokenizer, seed=config.run.seed,
            frame_rate=corpus.frame_rate, phones=phones if hints.weight else None,
            phone_parts=hints.parts_per_frame, **options,
        )  # fmt: skip

    def losses(
        self, batch: LMBatch, step: int, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, pauses, hints, targets = self._predict(batch, generator)
        text = self._text_loss(logits, targets, padding_weight=self.config.padding, special={})
        pause = pause_loss(pauses, batch.quiet, HORIZONS_S)
        report = {"text": text, "pause": pause}
        loss = text + self.config.pauses * pause
        if self.config.aside.weight:
            report["phones"] = hint_loss(hints, batch.aside)
            loss = loss + self.config.aside.weight * report["phones"]
        return loss, report

    def _predict(
        self, batch: LMBatch, generator: torch.Generator | None = None
    ) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """Text logits [B, T, classes], pause logits, phone logits and text targets [B, T]."""
        inputs, targets = delayed(batch.codes, self.lm.config)
        if generator is not None and self.config.forgotten + self.config.mistaken:
            self._forget(inputs[:, 0], generator)
        with self.config.run.autocast(self.device):
            x = self.lm.embed(inputs)
            if self.front_end is not None:
                assert batch.spectra is not None
                vectors = self._hear(batch.spectra)
                # As with codes, a frame is read one position later: the first reads nothing.
                x = x + nn.functional.pad(vectors[:, :-1], (0, 0, 1, 0))
            z, logits = self.lm.head(self._transform(x))
            pauses = [head(z) for head in self.lm.extra_heads]
            hints = self.hints(z)
        return logits, pauses, hints, targets[:, 0]

    def _forget(self, written: Tensor, generator: torch.Generator) -> None:
        """Blot out some of the pieces [B, T] that it wrote, and put wrong ones for others."""
        pieces = written >= FIRST_PIECE
        drawn = torch.rand(written.shape, generator=generator).to(written.device)
        written.masked_fill_((drawn < self.config.forgotten) & pieces, ZERO)
        wrong = torch.randint(
            FIRST_PIECE, len(self.tokenizer), written.shape, generator=generator
        ).to(written.device)
        mistaken = pieces & (drawn >= 1 - self.config.mistaken)
        written[mistaken] = wrong[mistaken]

    def held_out_batches(self) -> Iterator[LMBatch]:
        yield from self.first_sequences(
            spread(self.corpus.held_out, self.config.held_out_sequences)
        )

    @torch.no_grad()
    def evaluate(self, step: int, samples: Path) -> dict[str, float]:
        loss, count, right, pieces, quiet_right, quiet_count = 0.0, 0, 0.0, 0.0, 0.0, 0.0
        with self.swapped():
            for batch in self.held_out_batches():
                batch = batch.to(self.device)
                logits, pauses, _, targets = self._predict(batch)
                size = len(batch.codes)
                loss += size * float(
                    text_loss(logits, targets, padding_weight=self.config.padding, special={})
                )
                count += size
                found, total = recall(logits.argmax(dim=-1), targets, targets >= FIRST_PIECE)
                right, pieces = right + found, pieces + total
                for head, horizon in zip(pauses, HORIZONS_S, strict=True):
                    truth = (batch.quiet < horizon).long()
                    known = targets >= 0
                    found, total = recall(head.argmax(dim=-1), truth, known)
                    quiet_right, quiet_count = quiet_right + found, quiet_count + total
        return {
            "text": loss / max(1, count),
            "piece_accuracy": right / max(1.0, pieces),
            "pause_accuracy": quiet_right / max(1.0, quiet_count),
        }

    def export(self, folder: Path) -> None:
        hearing: dict[str, Any] = {}
        if self.front_end is not None:
            hearing = {front_end_file.KEY: self.front_end.config.to_dict()}
        if self.config.beam is not None:
            hearing[beam.KEY] = asdict(self.config.beam)
        described = FolderConfig(
            self.lm.config, model_type="stt", mimi_name=CODEC_NAME,
            mimi_config_name=CODEC_CONFIG_NAME, tokenizer_name="tokenizer.model",
            stt_config={
                "audio_silence_prefix_seconds": 0.0,
                "audio_delay_seconds": self.config.data.text_delay_s,
                **hearing,
            },
        )  # fmt: skip
        dtype = getattr(torch, self.config.export_dtype)
        model = folder / "model"
        with self.swapped():
            save_model_folder(model, self.lm, described, self.codec, self.tokenizer_path, dtype)
            if self.front_end is not None:
                path = model / front_end_file.NAME
                front_end_file.save_front_end(path, self.front_end, dtype)
