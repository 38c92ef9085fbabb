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
def _logging_level() -> None:
    """Commands that ran inside this process before have set the package's level for themselves."""
    logging.getLogger("duologue").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _gradients() -> Iterator[None]:
    """Whoever switches gradients off for the whole process takes them from later tests."""
    yield
    enabled = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert enabled, "gradients were left switched off"
