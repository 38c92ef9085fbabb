"""Saved voices: torch's archives are read as data, and never run."""

from __future__ import annotations

import contextlib
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from duologue.checkpoints import CheckpointError
from duologue.checkpoints.voices import Voice, load_voice, save_voice

STEPS, DIM, COLUMNS = 5, 16, 4


def published(dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """A voice as NVIDIA's program saves it."""
    return {
        "embeddings": torch.randn(STEPS, 1, 1, DIM).to(dtype),
        "cache": torch.randint(-2, 2048, (1, 17, COLUMNS)),
    }


def saved(path: Path, values: Any) -> Path:
    torch.save(values, path)
    return path


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_published_voice(dtype: torch.dtype, tmp_path: Path) -> None:
    values = published(dtype)
    voice = load_voice(saved(tmp_path / "v.pt", values))
    assert voice.codes is None
    assert voice.embeddings is not None
    assert voice.cache is not None
    assert voice.embeddings.dtype == dtype
    assert torch.equal(voice.embeddings, values["embeddings"].view(STEPS, DIM))
    assert torch.equal(voice.cache, values["cache"][0])


def test_views_and_shared_storages(tmp_path: Path) -> None:
    values = published(torch.float32)
    values["embeddings"] = torch.randn(2 * DIM, STEPS)[::2].t()[:, None, None]
    voice = load_voice(saved(tmp_path / "v.pt", OrderedDict(values)))
    assert voice.embeddings is not None
    assert torch.equal(voice.embeddings, values["embeddings"][:, 0, 0])


@pytest.mark.parametrize(
    "voice",
    [
        Voice(codes=torch.randint(0, 2048, (8, 30))),
        Voice(embeddings=torch.randn(STEPS, DIM).bfloat16(), cache=torch.ones(17, 3).long()),
    ],
    ids=["codes", "embeddings"],
)
def test_our_own_file(voice: Voice, tmp_path: Path) -> None:
    save_voice(tmp_path / "v.safetensors", voice)
    again = load_voice(tmp_path / "v.safetensors")
    for name in ("codes", "embeddings", "cache"):
        ours, theirs = getattr(voice, name), getattr(again, name)
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours.dtype == theirs.dtype and torch.equal(ours, theirs))


class Armed:
    """Calls something when unpickled."""

    fired = False

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def fire() -> None:
    Armed.fired = True


@pytest.mark.parametrize(
    "value",
    [
        Armed(fire),
        Armed(exec, "raise SystemExit"),
        Armed(getattr, "a", "b"),
        Armed(torch.zeros, 3),
        Armed(torch.nn.Parameter, torch.zeros(2)),
        OrderedDict,
        Path("x"),
        {1, 2},
        [torch.zeros(2)],
        1.5,
    ],
    ids=["call", "exec", "getattr", "zeros", "Parameter", "class", "path", "set", "list", "float"],
)
def test_whatever_else_a_pickle_asks_for_is_refused(value: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "v.pt", published() | {"more": value})
    with pytest.raises(CheckpointError, match=r"v\.pt: (refused|is no voice)"):
        load_voice(path)
    assert not Armed.fired


def test_object_with_state_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "v.pt", torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="refused"):
        load_voice(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "expected a dictionary with embeddings and cache"),
        ({"embeddings": torch.zeros(2, 1, 1, 4)}, "expected a dictionary"),
        ({"embeddings": 3, "cache": 4}, "are not tensors"),
        ({"embeddings": torch.zeros(2, 1, 1, 4), "cache": torch.zeros(17, 3)}, "is no voice"),
        (
            {"embeddings": torch.zeros(2, 2, 1, 4), "cache": torch.zeros(1, 17, 3).long()},
            "several voices",
        ),
        (
            {"embeddings": torch.zeros(2, 1, 1, 4).long(), "cache": torch.zeros(1, 17, 3).long()},
            "embeddings are torch.int64",
        ),
        (torch.zeros(3), "expected a dictionary"),
    ],
)
def test_archives_that_hold_no_voice(values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        load_voice(saved(tmp_path / "v.pt", values))
    assert "v.pt" in str(error.value)


def archive(path: Path, program: bytes, storages: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("v/data.pkl", program)
        for key, data in (storages or {}).items():
            file.writestr(f"v/data/{key}", data)
    return path


def tensor_program(key: str, count: int, offset: int, size: tuple, stride: tuple) -> bytes:
    """A pickle of one tensor, spelled by hand."""

    class Writer(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, key, "cpu", count) if value is home else None

    class Tensor_:
        def __reduce__(self) -> Any:
            arguments = (home, offset, size, stride, False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    home = object()
    buffer = io.BytesIO()
    Writer(buffer, protocol=2).dump({"embeddings": Tensor_(), "cache": Tensor_()})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0", 4, 0, (5,), (1,)), "reaches out of its storage"),
        (("0", 4, 3, (2,), (1,)), "reaches out of its storage"),
        (("0", 4, 0, (2,), (9,)), "reaches out of its storage"),
        (("0", 4, 0, (2**40, 2**40), (0, 0)), "reaches out of its storage"),
        (("0", 4, -1, (2,), (1,)), "impossible shape"),
        (("0", 4, 0, (2,), (1, 1)), "without storage or shape"),
        (("0", 5, 0, (2,), (1,)), "has 16 bytes for 5 numbers"),
        (("1", 4, 0, (2,), (1,)), "lacks the data of storage 1"),
        (("../0", 4, 0, (2,), (1,)), "without a name"),
    ],
)
def test_tensors_out_of_bounds(arguments: Any, message: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "v.pt", tensor_program(*arguments), {"0": bytes(16)})
    with pytest.raises(CheckpointError, match=message):
        load_voice(path)


@pytest.mark.parametrize(
    "program",
    [b"", b".", b"\x80\x02.", b"\x80\x02}", b"u.", b"}q\x00h\x07.", b"\x80\x02]q\x00.", b"garbage",
     b"cos\nsystem\n(S'true'\ntR.", b"}(U\x01a", pickle.dumps({"a": 1}, protocol=4)],
)  # fmt: skip
def test_malformed_pickles(program: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"v\.pt"):
        load_voice(archive(tmp_path / "v.pt", program))


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_bytes_never_crash_or_run(data: st.DataObject, tmp_path: Path) -> None:
    program = bytearray(tensor_program("0", 4, 0, (4, 1, 1), (1, 1, 1)))
    for _ in range(data.draw(st.integers(1, 4))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CheckpointError):
        load_voice(archive(tmp_path / "v.pt", bytes(program), {"0": bytes(16)}))


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "v.pt").write_bytes(pickle.dumps(published()))
    with pytest.raises(CheckpointError, match="not a readable archive"):
        load_voice(tmp_path / "v.pt")
    whole = saved(tmp_path / "w.pt", published()).read_bytes()
    (tmp_path / "v.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a readable archive"):
        load_voice(tmp_path / "v.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        load_voice(tmp_path / "gone.pt")


def test_archive_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duologue.checkpoints.voices.MAX_VOICE_BYTES", 1000)
    path = saved(tmp_path / "v.pt", published() | {"embeddings": torch.zeros(9000)})
    with pytest.raises(CheckpointError, match="too large"):
        load_voice(path)
    monkeypatch.undo()
    saved(path, {str(i): torch.zeros(1) for i in range(20)})
    with pytest.raises(CheckpointError, match="too many tensors"):
        load_voice(path)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"codes": torch.zeros(8, 3).long(), "cache": torch.zeros(17, 3).long()},
        {"embeddings": torch.zeros(3, 4)},
        {"codes": torch.zeros(8).long()},
        {"codes": torch.zeros(8, 0).long()},
        {"codes": torch.zeros(8, 3)},
    ],
)
def test_voices_that_are_none(parts: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="a voice"):
        Voice(**parts)
