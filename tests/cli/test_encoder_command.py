"""`duologue encoder serve` as a program of its own."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from duologue.checkpoints.folder import FolderConfig
from duologue.checkpoints.save import save_lm, write_tensors
from duologue.conditioning import ConditionProvider, FuserConfig, ReferenceEncoder
from duologue.encoder.opening import open_encoder
from duologue.moshi.lm import MoshiLM
from duologue.moshi.presets import PRESETS

from .test_commands import duologue


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with references, and a tokenizer of single words for its encoder."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shape = {"vocab_size": 8, "dim": 8, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1,
             "head_dim": 4, "hidden_dim": 8}  # fmt: skip
    options = {"embedder_params": shape, "bridge_module": {"hidden_dim": 4, "out_dim": 8}}
    conditioners = {"ref": {"type": "arc_encoder", "arc_encoder": options}}
    fuser = FuserConfig(streaming_sum=("ref",))
    torch.manual_seed(0)
    lm = MoshiLM(PRESETS["tiny"], ConditionProvider(128, conditioners, fuser))
    save_lm(folder, lm, FolderConfig(lm.config, conditioners=conditioners, fuser=fuser))
    reference = lm.condition_provider.reference
    assert reference is not None
    weights = ReferenceEncoder(reference.config).state_dict()
    write_tensors(folder / "reference" / "model.safetensors", weights, {})
    words = tokenizers.models.WordLevel({"?": 0, "the": 1, "sea": 2}, unk_token="?")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "reference" / "tokenizer.json"))
    return folder


def test_the_program_serves_until_it_is_told_to_end(folder: Path) -> None:
    """Started with the published flags; used through the published variable."""
    command = [
        sys.executable, "-m", "duologue.cli.main", "encoder", "serve", "--port", "0",
        "--config", folder / "config.json", "--moshi-weight", folder / "model.safetensors",
        "--conditioner", "ref", "--device", "cpu", "--threads", "1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("reference encoder at http://127.0.0.1:"), process.stderr
        url = line.split()[-1]

        async def ask(environment: dict[str, str]) -> torch.Tensor:
            encoder = open_encoder(folder, device="cpu", environment=environment)
            try:
                return await encoder.encode("the sea the sea the sea", 10)
            finally:
                await encoder.aclose()

        there, here = (asyncio.run(ask(e)) for e in ({"REFERENCE_ENCODER_URL": url}, {}))
        assert there.shape == (2, 128)
        torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-4)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
        assert "Traceback" not in errors
    finally:
        process.kill()


def test_faults_give_one_clear_line(folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        cases = [
            (("--host", "0.0.0.0"), "--api-key"),
            (("--config", folder / "config.json"), "go together"),
            (("-m", folder, "--port", port, "--device", "cpu"), "cannot listen"),
            (("-m", folder, "--conditioner", "other"), "'other' is no reference"),
            (("-m", folder, "--encoder", tmp_path / "gone"), "no such file"),
            (("-m", tmp_path / "gone"), "no local folder"),
        ]
        for arguments, complaint in cases:
            result = duologue("encoder", "serve", *arguments, ok=False)
            assert result.returncode == 2, arguments
            assert complaint in result.stderr.replace("\n", " ")
            assert "Traceback" not in result.stderr


def test_help_shows_examples() -> None:
    assert "duologue encoder serve" in duologue("encoder", "serve", "--help").stdout
