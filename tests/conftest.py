"""Settings of the whole suite: one thread per test process, so that runs are repeatable."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
