"""Speech programs as fixtures: tests that speak are skipped where a program is missing."""

from __future__ import annotations

import shutil

import pytest

from duologue.synthesis.engines.program import PACKAGES
from duologue.synthesis.speaker import Speaker


def _require(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(
                f"{program} is not installed: apt-get install {' '.join(PACKAGES[program])}"
            )


@pytest.fixture
def speaker() -> Speaker:
    """A speaker for flite and espeak-ng."""
    _require("flite", "espeak-ng")
    return Speaker()


@pytest.fixture
def full_speaker() -> Speaker:
    """A speaker for all programs, festival and its voices included."""
    _require("flite", "espeak-ng", "festival")
    return Speaker()
