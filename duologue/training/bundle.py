"""The parts of a trained model as one small folder: language model, codec, references, recogniser.

The recogniser lies in `stt/` and hears through a front end of its own or the folder's codec.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from duologue.checkpoints.compact import compact_folder
from duologue.checkpoints.folder import ModelFolder, read_json
from duologue.checkpoints.load import load_codec
from duologue.checkpoints.save import save_codec, write_json
from duologue.stt import front_end_file
from duologue.stt.load import FOLDER as STT_FOLDER
from duologue.stt.load import load_recogniser, recogniser_folder
from duologue.training.data import DataError
from duologue.training.encoded import codec_fingerprint
from duologue.training.heard import recogniser_fingerprint
from duologue.training.language import CODEC_CONFIG_NAME, CODEC_NAME

_KEPT = frozenset({"README.md"})
"""What belongs to the folder without being made from the parts."""
_CONFIG, _FLOOR = "config.json", "floor"


def bundle_model(
    lm: Path, stt: Path, out: Path, codec: str | None = None, *, any_recogniser: bool = False
) -> int:
    """Write the folder; returns its size in bytes.

    Args:
        stt: a recogniser, or a folder with one in it.
        codec: another codec to ship, for example one whose decoder has learnt on.
        any_recogniser: also one that the language model has not learnt to hear by.

    Raises:
        DataError: the parts were trained on codes of different codecs, or with another recogniser.
        CheckpointError: `stt` is a model that speaks, and has no recogniser in it.
    """
    stt = recogniser_folder(stt).path
    heard_from = ModelFolder.open(lm).config.heard_from
    if heard_from is not None and not any_recogniser:
        # As `train hear` loads it: a hash of weights is one of their representation, too.
        own = load_recogniser(stt, device="cpu")
        if recogniser_fingerprint(own) != heard_from:
            raise DataError(
                f"{lm} learnt to read what another recogniser than {stt} hears: have that one hear "
                "the corpora (`train hear`) and train on, or say --any-recogniser"
            )
    wanted = codec_fingerprint(load_codec(lm))
    hears_codes = not (stt / front_end_file.NAME).is_file()
    for name in (str(stt) if hears_codes else None, codec):
        if name is not None and codec_fingerprint(load_codec(name)) != wanted:
            raise DataError(f"{name}: its codes are not those that {lm} was trained on")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        whole, small = Path(scratch) / "whole", Path(scratch) / "small"
        shutil.copytree(lm, whole, ignore=shutil.ignore_patterns(STT_FOLDER))
        unshared = shutil.ignore_patterns(CODEC_NAME, CODEC_CONFIG_NAME)
        shutil.copytree(stt, whole / STT_FOLDER, ignore=unshared)
        if codec is not None:
            save_codec(
                whole, load_codec(codec), config_name=CODEC_CONFIG_NAME, weights_name=CODEC_NAME
            )
        _keep_floor(out, whole)
        size = compact_folder(whole, small)
        for name in _KEPT:
            if (out / name).exists():
                shutil.copyfile(out / name, small / name)
        if out.exists():
            shutil.rmtree(out)
        small.replace(out)
    return size


def _keep_floor(before: Path, after: Path) -> None:
    """Leave a folder its floor policy, if the new language model comes with none of its own."""
    if not (before / _CONFIG).is_file():
        return
    old, new = read_json(before / _CONFIG), read_json(after / _CONFIG)
    if _FLOOR in old and _FLOOR not in new:
        write_json(after / _CONFIG, {**new, _FLOOR: old[_FLOOR]})
