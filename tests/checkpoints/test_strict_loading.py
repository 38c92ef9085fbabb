"""What is wrong with a checkpoint is said, with the file's and the tensor's name; nothing else."""

from __future__ import annotations

import contextlib
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.checkpoint_writers import (
    Tensors,
    golden_config,
    golden_tensors,
    save,
    sliced,
    transformers_lm_config,
    transformers_mimi_config,
    transformers_moshi,
    write_folder,
    write_gguf,
)

from duologue.checkpoints import CheckpointError
from duologue.checkpoints.load import load_codec, load_lm, pick_device
from duologue.checkpoints.tensorfile import MAX_HEADER_BYTES, open_tensors

Change = Callable[[Tensors], Tensors]


def without(key: str) -> Change:
    return lambda tensors: {k: t for k, t in tensors.items() if k != key}


def replaced(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda tensors: tensors | {key: change(tensors[key])}


CHANGES = {
    "missing": without,
    "extra": lambda key: lambda tensors: tensors | {f"{key}.more": torch.zeros(2)},
    "misshapen": lambda key: replaced(key, lambda t: t[:-1]),
    "integer": lambda key: replaced(key, lambda t: t.to(torch.int64)),
}  # fmt: skip


def moshi_in_transformers() -> tuple[dict, Tensors]:
    config = golden_config("lm_duplex")
    codec = transformers_mimi_config(golden_config("mimi"))
    return transformers_lm_config(config, codec), transformers_moshi(
        golden_tensors("lm_duplex"), config
    )


def lm_in(kind: str) -> tuple[dict, Tensors]:
    if kind == "transformers":
        return moshi_in_transformers()
    config, tensors = golden_config("lm_duplex"), golden_tensors("lm_duplex")
    return config, tensors if kind == "kyutai" else sliced(tensors, config, kind)


KEYS = {
    "kyutai": ("text_emb.weight", "transformer.layers.1.self_attn.in_proj_weight",
               "depformer.layers.0.self_attn.in_proj_weight", "out_norm.alpha"),
    "mlx": ("audio_embs.3.weight", "depformer.slices.2.transformer.layers.1.norm1.weight",
            "depformer.slices.1.linear_out.weight"),
    "candle": ("depformer.3.linear_in.weight", "depformer.0.transformer.layers.0.norm2.alpha"),
    "transformers": ("decoder.model.layers.0.self_attn.k_proj.linear.weight",
                     "depth_decoder.layers.1.mlp.fc1.weight", "embed_tokens.7.weight"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in KEYS for key in KEYS[kind]])
def test_language_model(kind: str, key: str, what: str, tmp_path: Path) -> None:
    config, tensors = lm_in(kind)
    folder = write_folder(tmp_path, config, CHANGES[what](key)(tensors))
    with pytest.raises(CheckpointError) as error:
        load_lm(folder, device="cpu")
    assert key in str(error.value)
    assert "model.safetensors" in str(error.value)


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize(
    "key",
    ["quantizer.rvq_rest.vq.layers.2._codebook.embedding_sum",
     "upsample.convtr.convtr.convtr.weight",
     "encoder_transformer.transformer.layers.0.self_attn.in_proj_weight"],
)  # fmt: skip
def test_codec(key: str, what: str, tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", CHANGES[what](key)(golden_tensors("mimi")))
    (tmp_path / "config.json").write_text(json.dumps(golden_config("mimi")))
    with pytest.raises(CheckpointError) as error:
        load_codec(tmp_path, device="cpu")
    assert key in str(error.value)


def test_configuration_of_another_size(tmp_path: Path) -> None:
    config = golden_config("lm_duplex") | {"dim": 128}
    with pytest.raises(CheckpointError, match=r"gives \(97, 64\) for text_emb.weight"):
        load_lm(write_folder(tmp_path, config, golden_tensors("lm_duplex")), device="cpu")


def test_rows_that_do_not_divide_among_steps(tmp_path: Path) -> None:
    key = "depformer.layers.0.self_attn.out_proj.weight"
    tensors = replaced(key, lambda t: t[:-3])(golden_tensors("lm_duplex"))
    with pytest.raises(CheckpointError, match="no multiple of 4"):
        load_lm(write_folder(tmp_path, golden_config("lm_duplex"), tensors), device="cpu")


def test_scales_of_q8_that_do_not_fit(tmp_path: Path) -> None:
    tensors = replaced("text_linear.weight_scb", lambda t: t[:-1])(golden_tensors("lm_q8"))
    with pytest.raises(CheckpointError, match=r"text_linear.weight is .*int8"):
        load_lm(write_folder(tmp_path, golden_config("lm_q8"), tensors), device="cpu")


@pytest.fixture(scope="module")
def good_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "x.safetensors"
    return save(path, {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}).read_bytes()


def opened(folder: Path, data: bytes, name: str = "x.safetensors") -> None:
    path = folder / name
    path.write_bytes(data)
    source = open_tensors(path)
    for key in source:
        source[key]


@pytest.mark.parametrize("kept", [0, 4, 7, 8, 30, -1, -20])
def test_truncated(kept: int, good_file: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"truncated|too short|header") as error:
        opened(tmp_path, good_file[:kept])
    assert "x.safetensors" in str(error.value)


def test_oversize_header(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="announce a header"):
        opened(tmp_path, struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}")


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"null", b'"x"', b"{", b"\xff\xfe", b"[" * 5000,
        b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": [2]}}',
        b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "Q4", "shape": [2], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": [], "shape": [2], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}}',
        b'{"a": {"dtype": "F32", "shape": [2.5], "data_offsets": [0, 8]}}',
        b'{"__metadata__": 3, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [9223372036854775807, 9], "data_offsets": [0, 8]}}',
    ],
)  # fmt: skip
def test_malformed_header(header: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        opened(tmp_path, struct.pack("<Q", len(header)) + header + bytes(8))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_bytes_never_crash(data: st.DataObject, good_file: bytes, tmp_path: Path) -> None:
    broken = bytearray(good_file)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CheckpointError):
        opened(tmp_path, bytes(broken))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.safetensors", b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(60)),
        ("m.safetensors", b"PK\x03\x04" + bytes(60)),
        ("m.safetensors", b"<!DOCTYPE html><html><body>Not found</body></html>"),
        ("m.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
        ("m.gguf", b"RIFF" + bytes(60)),
        ("m.gguf", b""),
    ],
)
def test_foreign_files(name: str, data: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a|too short"):
        opened(tmp_path, data, name)


class Bomb:
    """Sets a flag if it is ever unpickled."""

    armed = False

    def __reduce__(self) -> tuple:
        return setattr, (Bomb, "armed", True)


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin", "m.ckpt", "m.pkl", "m.safetensors"])
def test_pickles_are_never_opened(name: str, tmp_path: Path) -> None:
    torch.save({"weight": Bomb()}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"pickled|not a safetensors"):
        open_tensors(tmp_path / name)
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        open_tensors(tmp_path / name)
    assert not Bomb.armed


@pytest.mark.parametrize(
    "index", [b"[]", b"{}", b'{"weight_map": {"a": "../x.safetensors"}}',
              b'{"weight_map": {"a": 3}}', b'{"weight_map": {"a": "gone.safetensors"}}'],
)  # fmt: skip
def test_malformed_index_of_shards(index: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(index)
    with pytest.raises(CheckpointError):
        open_tensors(path)


def test_key_in_two_shards(tmp_path: Path) -> None:
    for name in ("a", "b"):
        safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text('{"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}')
    with pytest.raises(CheckpointError, match="w is in both"):
        open_tensors(path)


@pytest.fixture(scope="module")
def good_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    tensors = {"a": torch.arange(64.0).view(2, 32), "b": torch.ones(1, 1, 4), "c": torch.ones(3)}
    path = tmp_path_factory.mktemp("good") / "x.gguf"
    return write_gguf(path, tensors, {"a": "q8_0", "c": "f16"}).read_bytes()


def test_gguf_is_readable(good_gguf: bytes, tmp_path: Path) -> None:
    opened(tmp_path, good_gguf, "x.gguf")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_truncated_gguf(share: float, good_gguf: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"truncated|too short"):
        opened(tmp_path, good_gguf[: int(share * len(good_gguf))], "x.gguf")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_bytes_of_gguf_never_crash(
    data: st.DataObject, good_gguf: bytes, tmp_path: Path
) -> None:
    broken = bytearray(good_gguf)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CheckpointError):
        opened(tmp_path, bytes(broken), "x.gguf")


def gguf_with(kind: int, dims: tuple[int, ...], start: int = 0, version: int = 3) -> bytes:
    name = b"w"
    info = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dims))
    info += b"".join(struct.pack("<Q", n) for n in dims) + struct.pack("<IQ", kind, start)
    return b"GGUF" + struct.pack("<IQQ", version, 1, 0) + info + bytes(200)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gguf_with(12, (256, 1)), "GGML type 12"),
        (gguf_with(8, (33, 1)), "blocks of 32"),
        (gguf_with(8, ()), "blocks of 32"),
        (gguf_with(0, (4,), start=5), "off the alignment"),
        (gguf_with(0, (2**62, 2**62)), "truncated"),
        (gguf_with(0, (1,) * 9), "9 dimensions"),
        (gguf_with(0, (4,), version=1), "version 1"),
    ],
)
def test_gguf_that_cannot_be_read(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, data, "x.gguf")


@pytest.mark.parametrize("device", ["bogus", "cuda:x", "cuda:99"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{device}.*one of cpu"):
        pick_device(device)


def test_an_unknown_quantization_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'int3' is none of stored, int8, int4"):
        load_lm(tmp_path, quantization="int3")
