"""A tiny language model with references, its encoder, and the service over real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn

from duologue.checkpoints.folder import FolderConfig
from duologue.checkpoints.save import save_lm, write_tensors
from duologue.conditioning import ConditionProvider, FuserConfig, ReferenceEncoder
from duologue.encoder.model import RowModel
from duologue.encoder.opening import load_row_model
from duologue.moshi.lm import MoshiLM
from duologue.moshi.presets import PRESETS

NAME = "reference_with_time"
DIM = 128
TEXTS = [
    "the tower opened in eighteen eighty nine",
    "tea",
    "a museum stands at the old quay and shows one thousand two hundred model ships",
    "the sea",
]


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end, but never hang the suite."""
    return asyncio.run(asyncio.wait_for(coroutine, 20))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as training exports it: the encoder and its tokenizer in `reference/`."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("models") / "tiny"
    options = {
        "embedder_params": {
            "compress_rates": [-4], "vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4,
            "n_kv_heads": 2, "head_dim": 8, "hidden_dim": 48,
        },
        "bridge_module": {"hidden_dim": 24, "out_dim": 40},
    }  # fmt: skip
    conditioners = {
        "first_speaker": {"type": "lut", "lut": {"n_bins": 2, "dim": 4, "possible_values": None}},
        NAME: {"type": "arc_encoder", "arc_encoder": options},
    }
    fuser = FuserConfig(prepend=("first_speaker",), streaming_sum=(NAME,))
    config = PRESETS["tiny"]
    torch.manual_seed(3)
    lm = MoshiLM(config, ConditionProvider(config.dim, conditioners, fuser))
    save_lm(folder, lm, FolderConfig(config, conditioners=conditioners, fuser=fuser))
    conditioner = lm.condition_provider.reference
    assert conditioner is not None
    weights = ReferenceEncoder(conditioner.config).state_dict()
    write_tensors(folder / "reference" / "model.safetensors", weights, {})
    text = folder / "text"
    text.write_text("\n".join(TEXTS * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "reference" / "tokenizer"), vocab_size=60,
        minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def rows(model_folder: Path) -> RowModel:
    return load_row_model(model_folder, device="cpu")


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """An ASGI application on loopback; gives its URL, and ends it with its lifespan."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=5)


@contextmanager
def raw_server(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that treats each connection as `handle` does, for what no framework would send."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_handled, args=(handle, connection), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _handled(handle: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with connection:
        handle(connection)
