"""Settings of the whole suite: one thread per test process, and no time limit per example."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
# How long one example takes says more of the machine's other work than of the code.
settings.register_profile("duologue", deadline=None)
settings.load_profile("duologue")
