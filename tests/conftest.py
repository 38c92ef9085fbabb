"""Settings of the whole suite: one thread per test process, no time limit per example."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# How long one example takes says more of the machine's other work than of the code.
settings.register_profile("duologue", deadline=None)
settings.load_profile("duologue")


@pytest.fixture(autouse=True)
def _logging_level() -> Iterator[None]:
    """Commands that run inside the test process set the package's level for themselves."""
    logger = logging.getLogger("duologue")
    level = logger.level
    yield
    logger.setLevel(level)
