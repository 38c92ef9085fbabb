"""What the codec leaves of speech: intelligibility, spectrum, and what a recogniser still reads.

Utterances of a held-out split: half in wren's voice, half in held-out voices, some of these through
a room. STOI and mel distance compare decoded with original; word error rates are those of the
independent recogniser on both, so that its own errors cancel out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from duologue.evaluation import statistics
from duologue.evaluation.activity import Pcm
from duologue.evaluation.cases import split_key
from duologue.evaluation.ears import Ears
from duologue.evaluation.ledger import Ledger, Progress, key_of
from duologue.evaluation.table import Figure, at_least, at_most
from duologue.evaluation.talker import SAMPLE_RATE
from duologue.evaluation.words import errors, spoken_words
from duologue.evaluation.world import world_sentences
from duologue.synthesis import room
from duologue.synthesis.babble import babble
from duologue.synthesis.draw import Draw
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.splits import Split
from duologue.synthesis.utterance import join
from duologue.synthesis.voices import WREN, cast
from duologue.synthesis.writer.lines import world_line
from duologue.synthesis.writer.sentences import free_sentence

if TYPE_CHECKING:
    from duologue.mimi.codec import Mimi

VERSION = 2
COUNT = 120
_SHORTEST_S = 3.0
_SPEECH_DB = -23.0
_ROOM_SHARE = 0.3
_FREE_SENTENCES = 1500


class Coder(Protocol):
    """A codec under test."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def recode(self, pcm: Pcm) -> Pcm:
        """Encode and decode samples [T] at 24 kHz."""
        ...


class MimiCoder:
    """One of our codecs."""

    def __init__(self, codec: Mimi, name: str) -> None:
        from duologue.training.encoded import weights_fingerprint

        self._codec = codec
        self.name = f"{name}, {codec.num_codebooks} codebooks"
        self.fingerprint = f"{weights_fingerprint(codec)}-{codec.num_codebooks}"

    def recode(self, pcm: Pcm) -> Pcm:
        import torch

        device = next(self._codec.parameters()).device
        with torch.no_grad():
            codes = self._codec.encode(torch.from_numpy(pcm)[None, None].to(device))
            decoded = self._codec.decode(codes)[0, 0].float().cpu().numpy()
        return np.asarray(decoded[: len(pcm)], np.float32)


@dataclass(frozen=True)
class Line:
    """An utterance to be coded."""

    id: str
    is_wren: bool
    text: str
    pcm: Pcm


def lines(seed: int, count: int, speaker: Speaker, split: Split = "test") -> list[Line]:
    """Utterances of a split, wren's and others' in turn."""
    return [_line(seed, number, speaker, split) for number in range(count)]


def _line(seed: int, number: int, speaker: Speaker, split: Split) -> Line:
    draw = Draw("evaluation line", seed, number, *split_key(split))
    is_wren = number % 2 == 0
    voice = WREN if is_wren else cast(draw.split("voice"), split)
    said, utterance = [], None
    while utterance is None or utterance.seconds < _SHORTEST_S:
        write = world_line if is_wren or draw.chance(0.5) else free_sentence
        said.append(write(draw, split))
        spoken = speaker.say(said[-1], voice)
        utterance = join(utterance, spoken, 0.4) if utterance else spoken
    pcm = utterance.samples
    if not is_wren and draw.chance(_ROOM_SHARE):
        conditions = room.draw_conditions(draw.split("room"), _SPEECH_DB)
        pcm = room.apply(pcm, conditions, babble=babble(speaker))
    return Line(f"line-{number:04d}", is_wren, " ".join(said), np.ascontiguousarray(pcm))


def measure(
    coder: Coder,
    out: Path,
    *,
    seed: int = 1,
    count: int = COUNT,
    split: Split = "test",
    ears: Ears | None = None,
    progress: Progress = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Measure each utterance; those that have been before are not measured again."""
    from duologue.training.metrics import mel_distance, stoi

    key = key_of(VERSION, coder.fingerprint, seed, *split_key(split))
    ledger = Ledger(out / "codec.jsonl", key)
    names = [f"line-{number:04d}" for number in range(count)]
    waiting = [number for number, name in enumerate(names) if name not in ledger]
    if waiting:
        speaker = Speaker()
        ears = ears or Ears([*world_sentences((), split=split), *_free_sentences(split)])
        for place, number in enumerate(waiting, 1):
            line = _line(seed, number, speaker, split)
            decoded = coder.recode(line.pcm)
            heard = stoi(line.pcm, decoded, SAMPLE_RATE)
            right = spoken_words(line.text)
            ears.learn(right)
            wrong = [
                errors(right, ears.read(pcm), ears.lexicon.same).count
                for pcm in (decoded, line.pcm)
            ]
            ledger.add(line.id, {
                "wren": line.is_wren,
                "stoi": None if math.isnan(heard) else heard,
                "mel_db": mel_distance(line.pcm, decoded, SAMPLE_RATE),
                "decoded_errors": wrong[0], "original_errors": wrong[1], "words": len(right),
            })  # fmt: skip
            progress(count - len(waiting) + place, count)
    return [ledger[name] for name in names]


def codec_figures(results: list[dict[str, Any]]) -> list[Figure]:
    """The codec's lines of the table; bars are for all voices, and for reading wren's."""
    figures: list[Figure] = []
    chosen = {"": results, "_wren": [r for r in results if r["wren"]]}
    chosen["_users"] = [r for r in results if not r["wren"]]
    for suffix, part in chosen.items():
        whose = {"": "", "_wren": ", wren's voice", "_users": ", held-out voices"}[suffix]
        stois = [r["stoi"] for r in part if r["stoi"] is not None]
        added = statistics.difference_of_ratios(
            (r["decoded_errors"], r["original_errors"], r["words"]) for r in part
        )
        original = statistics.ratio((r["original_errors"], r["words"]) for r in part)
        figures += [
            Figure(f"codec_stoi{suffix}", f"codec: STOI{whose}", "", statistics.mean(stois),
                   None if suffix else at_least(0.9)),
            Figure(f"codec_mel{suffix}", f"codec: mel distance{whose}", "dB",
                   statistics.mean(r["mel_db"] for r in part)),
            Figure(f"codec_wer_added{suffix}", f"codec: word error rate added{whose}", "points",
                   added.scaled(100), at_most(5) if suffix == "_wren" else None),
            Figure(f"codec_wer_original{suffix}", f"recogniser on the originals{whose}", "%",
                   original.scaled(100)),
        ]  # fmt: skip
    return figures


def _free_sentences(split: Split) -> list[tuple[str, ...]]:
    draw = Draw("evaluation world", "free")
    return [spoken_words(free_sentence(draw.split(n), split)) for n in range(_FREE_SENTENCES)]
