"""wren's recipe, from an empty folder to a model that listens and speaks, at a tiny length.

The models have their real shapes; only hours and steps are cut. What comes out babbles, but every
step of the recipe ran: synthesizers, codec, codes, tokenizer, language model, recogniser, bundle.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import duologue
from duologue.synthesis.writer import english

RECIPE = Path(__file__).parents[2] / "recipes" / "wren" / "build.sh"
PROGRAMS = ("flite", "festival", "espeak-ng")
LIMIT_S = 600
MEGABYTES = 40e6


def build(folder: Path) -> str:
    """Run the recipe; returns what it printed.

    Raises:
        subprocess.CalledProcessError: a step failed.
    """
    tools = Path(sys.executable).parent
    environment = {
        **os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "HOURS": "0.002",
        "STEPS": "0.00005", "THREADS": "1", "OMP_NUM_THREADS": "1", "DEVICE": "cpu",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(RECIPE), str(folder)], env=environment, capture_output=True, text=True,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.timeout(LIMIT_S + 120)
@pytest.mark.skipif(
    not (all(shutil.which(program) for program in PROGRAMS) and english.FOLDER.is_dir()),
    reason="needs the synthesizers and WordNet",
)
def test_recipe_runs_from_nothing_to_a_talking_model(tmp_path: Path) -> None:
    build(tmp_path)
    folder = tmp_path / "wren"
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < MEGABYTES
    model = duologue.Moshi.from_pretrained(folder)
    reply = model.create_session(seed=0).process(np.zeros(2 * 24_000, np.float32))
    assert reply.pcm.shape[-1] > 24_000
    assert np.isfinite(reply.pcm).all()
