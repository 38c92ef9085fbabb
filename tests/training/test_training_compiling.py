"""Training compiled."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch

from duologue.training.compiling import compiled
from duologue.training.lm_losses import text_loss


@pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler")
def test_compiled_losses_are_the_same_and_have_the_same_gradient() -> None:
    torch.manual_seed(0)
    targets = torch.randint(-1, 9, (3, 11))
    found = []
    for loss in (text_loss, compiled(text_loss, True)):
        logits = torch.linspace(-2, 2, 3 * 11 * 9).sin().view(3, 11, 9).requires_grad_()
        value = loss(logits, targets, padding_weight=0.5, special={4: 3.0})
        value.backward()
        found.append((value.detach(), logits.grad))
    torch.testing.assert_close(found[1], found[0])


def test_without_a_compiler_training_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.WARNING):
        assert compiled(text_loss, True) is text_loss
        assert "no C++ compiler" in caplog.text
    assert compiled(text_loss, False) is text_loss
