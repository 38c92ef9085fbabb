"""Sequences of the transcription model that hears spectra: recordings bent and blotted in passing.

Codes of a recording are what they are; spectra can be stretched in time and in frequency, drowned
in noise and blotted out, differently each time they are drawn. So a few voices become many (vocal
tract length perturbation, Jaitly and Hinton 2013; SpecAugment, arXiv 1904.08779).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from duologue.stt.front_end import FLOOR, MelFrontEnd, band_centres
from duologue.training.data import AudioStore, DataError, read_rows, to_float
from duologue.training.encoded import KEPT, Conversation
from duologue.training.language import Corpus, held_out_apart
from duologue.training.lm_data import CutSequence, TranscriptionSampler

USER_CHANNEL = 1
_BLANK = -9.0
"""Log energy where nothing is left to hear."""
_REGIONS_HZ = (200.0, 400.0, 750.0, 1300.0, 2000.0, 3000.0, 4500.0, 7000.0)
"""Middles of what is moved and coloured as one: about a formant each."""
_SILENCE = float(np.log(FLOOR))
"""That of no sound at all, as it follows a recording and flushes words out."""


@dataclass(frozen=True)
class BendingConfig:
    """How recordings are changed each time they are drawn. Energies are in nepers of energy."""

    tempo: tuple[float, float] = (0.86, 1.16)
    tempo_share: float = 0.7
    formants: tuple[float, float] = (0.88, 1.14)
    """Stretch of the frequencies."""
    formant_share: float = 0.8
    formant_shift: float = 0.09
    """Most, in logarithms, that each region of the spectrum moves by itself: speakers differ in
    single formants, not only in the length of the tract."""
    formant_shift_share: float = 0.7
    gain: tuple[float, float] = (-2.5, 1.5)
    noise: tuple[float, float] = (-9.0, -3.0)
    """Level of a steady noise."""
    noise_share: float = 0.4
    tilt: float = 1.5
    """Most that the lowest bands may gain, and the highest lose, or the other way round."""
    tilt_share: float = 0.3
    colour: float = 0.5
    """Standard deviation of what each region gains or loses: microphones and larynxes."""
    colour_share: float = 0.5
    blots: int = 2
    """So many groups of bands are blotted out, and one more stretch of time."""
    blot_bands: int = 12
    blot_spectra: int = 20


@dataclass(frozen=True)
class Recorded(Conversation):
    """A recording whose codes nobody needs: rows of its `codes` are missing, not its frames."""

    path: Path = Path()

    @property
    def channel(self) -> int | None:
        """Whom the recogniser is to hear."""
        return USER_CHANNEL if self.is_dialogue else None


def sound_corpus(manifests: Sequence[Path], front_end: MelFrontEnd) -> Corpus:
    """Recordings of manifests; those that are not of the split "train" are held out.

    Raises:
        DataError: a manifest cannot be used.
    """
    found: list[Conversation] = []
    digest = hashlib.sha256()
    for manifest in manifests:
        for path, row in read_rows(manifest):
            frames = int(float(row["duration"]) * front_end.frame_rate)
            facts = {key: row[key] for key in KEPT if key in row}
            nothing = torch.empty(0, frames, dtype=torch.int16)
            found.append(Recorded(nothing, facts, path=path))
            digest.update(f"{row.get('id', path.name)} {frames}\n".encode())
    if not found:
        raise DataError("there are no recordings in the manifests")
    train, held_out = held_out_apart(found)
    return Corpus(train, held_out, 0, front_end.frame_rate, digest.hexdigest()[:16])


class SoundSampler(TranscriptionSampler):
    """Sequences with spectra in place of codes."""

    def __init__(
        self, *args: Any, front_end: MelFrontEnd, bending: BendingConfig, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.front_end, self.bending = front_end, bending
        self.store = AudioStore(front_end.sample_rate)
        self._centres = band_centres(front_end.config).numpy()

    def cut(
        self, one: Conversation, start: int, rng: np.random.Generator, *, blot: bool = True
    ) -> CutSequence:
        """`blot` also bends."""
        assert isinstance(one, Recorded)
        bending, frames = self.bending, self.config.frames
        tempo = 1.0
        if blot and rng.random() < bending.tempo_share:
            tempo = float(np.exp(rng.uniform(*np.log(bending.tempo))))
        inside = min(frames, int((one.frames - start) / tempo))
        facts = _in_time(one.facts, start / self.frame_rate, tempo)
        piece = replace(one, codes=one.codes.new_empty(0, inside), facts=facts)
        sequence = super().cut(piece, 0, rng, blot=False)
        each = self.front_end.frame_size // self.front_end.config.hop
        heard = self._spectra(one, start, round(inside * each * tempo))
        if blot:
            heard = bend(_stretched(heard, inside * each), self._centres, bending, rng)
        sequence.spectra = np.pad(
            heard, ((0, (frames - inside) * each), (0, 0)), constant_values=_SILENCE
        )
        return sequence

    def _spectra(self, one: Recorded, start: int, count: int) -> NDArray[np.float32]:
        """`count` spectra from a frame on."""
        size, hop = self.front_end.frame_size, self.front_end.config.hop
        samples = self.store.read(one.path, start * size, count * hop, one.channel)
        pcm = torch.from_numpy(to_float(samples))
        heard: NDArray[np.float32] = self.front_end.spectra(pcm[None])[0].numpy()
        return heard


def bend(
    spectra: NDArray[np.float32],
    centres: NDArray[np.float64],
    config: BendingConfig,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Change log mel spectra [T, bands] as another voice, place and microphone would.

    Args:
        centres: Hz of each band.
    """
    count, bands = spectra.shape
    rising = np.linspace(-1, 1, bands, dtype=np.float32)
    moved = np.zeros(bands)
    if rng.random() < config.formant_share:
        moved += rng.uniform(*np.log(config.formants))
    if rng.random() < config.formant_shift_share:
        shifts = rng.uniform(-config.formant_shift, config.formant_shift, len(_REGIONS_HZ))
        moved += np.interp(centres, _REGIONS_HZ, shifts)
    if moved.any():
        places = np.interp(centres * np.exp(moved), centres, np.arange(bands))
        spectra = _between(spectra.T, places).T
    spectra = spectra + rng.uniform(*config.gain)
    if rng.random() < config.colour_share:
        gains = rng.normal(0, config.colour, len(_REGIONS_HZ))
        spectra = spectra + np.interp(centres, _REGIONS_HZ, gains).astype(np.float32)
    if rng.random() < config.noise_share:
        colour = rng.uniform(-2, 1) * (rising + 1) / 2
        noise = rng.uniform(*config.noise) + colour + rng.normal(0, 0.6, spectra.shape)
        spectra = np.logaddexp(spectra, noise.astype(np.float32))
    if rng.random() < config.tilt_share:
        spectra = spectra + rng.uniform(-config.tilt, config.tilt) * rising
    for _ in range(config.blots):
        width = int(rng.integers(0, min(config.blot_bands, bands)))
        low = int(rng.integers(0, bands - width))
        spectra[:, low : low + width] = _BLANK
    for _ in range(config.blots + 1):
        length = int(rng.integers(0, config.blot_spectra))
        begin = int(rng.integers(0, max(1, count - length)))
        spectra[begin : begin + length] = _BLANK
    return spectra.astype(np.float32)


def _stretched(spectra: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The same in another number of spectra."""
    if len(spectra) == count:
        return spectra
    return _between(spectra, np.linspace(0, len(spectra) - 1, count))


def _between(rows: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows at fractional places, interpolated."""
    low = places.astype(np.int64)
    share = (places - low).astype(np.float32)[:, None]
    return rows[low] * (1 - share) + rows[np.minimum(low + 1, len(rows) - 1)] * share


def _in_time(facts: Mapping[str, Any], start_s: float, tempo: float) -> dict[str, Any]:
    """Facts of what is heard from a moment on, at a tempo."""

    def at(time: float) -> float:
        return (time - start_s) / tempo

    words = [[word, [at(a), at(b)], who] for word, (a, b), who in facts.get("alignments") or ()]
    phones = [[phone, at(a), at(b)] for phone, a, b in facts.get("phones") or ()]
    return {**facts, "alignments": words, "phones": phones}
