"""Fetching from the hub, against a made-up cache and a server of our own; no network."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.checkpoint_writers import golden_config, transformers_mimi_config
from support.golden import GOLDEN

import duologue
from duologue.checkpoints import CheckpointError, resolve
from duologue.checkpoints.hub import fetch_file, fetch_repository, fetch_uri

constants = pytest.importorskip("huggingface_hub.constants")

REPO, COMMIT = "someone/model", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    return tmp_path / "hub"


def put(cache: Path, files: dict[str, bytes], repo: str = REPO) -> Path:
    """A repository's files as the cache holds them."""
    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for name, data in files.items():
        path = snapshot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    return snapshot


def config(**values: Any) -> bytes:
    return json.dumps(golden_config("lm_duplex") | values).encode()


def test_files_that_the_configuration_names(cache: Path) -> None:
    names = {"moshi_name": "m.safetensors", "mimi_name": "c.safetensors",
             "mimi_config_name": "c.json", "tokenizer_name": "t.model",
             "lora_name": "l.safetensors"}  # fmt: skip
    files = dict.fromkeys(names.values(), b"") | {"config.json": config(**names)}
    folder = put(cache, files)
    assert fetch_repository(REPO) == folder
    for name in names.values():
        missing = dict(files)
        del missing[name]
        other = f"someone/without-{name.replace('.', '-')}"
        put(cache, missing, other)
        with pytest.raises(CheckpointError, match=name):
            fetch_repository(other)


def test_defaults_may_be_missing_but_for_the_weights(cache: Path) -> None:
    config_of = json.dumps(
        {k: v for k, v in golden_config("lm_duplex").items() if k != "moshi_name"}
    )
    folder = put(cache, {"config.json": config_of.encode(), "model.safetensors": b""})
    assert fetch_repository(REPO) == folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        fetch_repository(REPO)


def test_repository_without_configuration(cache: Path) -> None:
    """Older revisions of moshiko have none: the names are the published ones."""
    folder = put(cache, {"model.safetensors": b"", "tokenizer_spm_32k_3.model": b""})
    assert fetch_repository(REPO) == folder


def test_transformers_repository(cache: Path) -> None:
    values = transformers_mimi_config(golden_config("mimi"))
    folder = put(cache, {"config.json": json.dumps(values).encode(), "model.safetensors": b""})
    assert fetch_repository(REPO) == folder
    index = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
    shards = {"config.json": json.dumps(values).encode(), "model.safetensors.index.json": index}
    put(cache, shards | {"one.safetensors": b""}, "someone/shards")
    with pytest.raises(CheckpointError, match=r"two\.safetensors"):
        fetch_repository("someone/shards")


def test_model_from_the_cache(cache: Path) -> None:
    files = {name: (GOLDEN / "lm_duplex" / name).read_bytes()
             for name in ("config.json", "model.safetensors")}  # fmt: skip
    put(cache, files)
    assert duologue.load_lm(REPO, device="cpu").config.dep_q == 4
    assert resolve(f"hf://{REPO}") == fetch_repository(REPO)


def test_single_files(cache: Path, tmp_path: Path) -> None:
    folder = put(cache, {"voices/a.wav": b"x"})
    assert fetch_uri(f"hf://{REPO}/voices/a.wav") == folder / "voices" / "a.wav"
    assert resolve(f"hf://{REPO}/voices/a.wav") == folder / "voices" / "a.wav"
    assert resolve(f"file://{folder}") == folder
    assert fetch_file(REPO, "voices/a.wav", COMMIT) == folder / "voices" / "a.wav"
    (tmp_path / "b.wav").touch()
    assert fetch_uri(f"file://{tmp_path / 'b.wav'}") == tmp_path / "b.wav"
    assert fetch_uri(str(tmp_path / "b.wav")) == tmp_path / "b.wav"
    with pytest.raises(CheckpointError, match="no such file"):
        fetch_uri(f"file://{tmp_path / 'c.wav'}")
    with pytest.raises(CheckpointError, match="expected hf://owner/name/path"):
        fetch_uri("hf://someone/model")


def test_offline_and_not_in_the_cache(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"HF_HUB_OFFLINE forbids.*hf download someone/model"):
        fetch_repository(REPO)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'duologue\[hub\]'"):
        fetch_repository(REPO)


@pytest.mark.parametrize("name", ["some one/model", "a--b/c", "owner/" + "x" * 200])
def test_names_that_are_no_hub_ids(name: str, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="is no hub id"):
        fetch_repository(name)


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for what it refuses."""

    answers: ClassVar = {
        "someone/gated": (403, "GatedRepo"),
        "someone/absent": (401, "RepoNotFound"),
        "someone/old": (404, "RevisionNotFound"),
        "someone/empty": (404, "EntryNotFound"),
        "someone/broken": (418, ""),
    }

    def do_HEAD(self) -> None:
        repo = "/".join(self.path.split("/")[1:3])
        status, code = self.answers.get(repo, (404, "RepoNotFound"))
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The hub is a server on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    go_online(monkeypatch, server.server_port)
    yield
    server.shutdown()
    server.server_close()
    thread.join()


def go_online(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    endpoint = f"http://127.0.0.1:{port}"
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("someone/gated", r"is gated: accept its terms at https://huggingface\.co/someone/gated"),
        ("someone/absent", "no such repository on the hub, or a private one"),
        ("someone/old", "has no revision main"),
        ("someone/empty", "has no file model.safetensors"),
        ("someone/broken", r"the hub gave no answer \(.*418.*\): check the network"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_what_the_hub_refuses(repo: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        fetch_repository(repo)


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Hub) as closed:
        port = closed.server_port
    go_online(monkeypatch, port)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the package tries again and again
    with pytest.raises(CheckpointError, match=r"the hub gave no answer \(.*\): check the network"):
        fetch_repository(REPO)
