"""Our numerics against the published packages, with random weights.

    sh tests/peers/install.sh
    .venv-peers/bin/python -m pytest tests/peers --require-peers

Where a peer is not installed its tests are skipped; `--require-peers` makes that a failure.
"""

from __future__ import annotations

from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-peers", action="store_true", help="fail if any test of a peer did not run"
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not session.config.getoption("--require-peers", default=False):
        return
    if reporter.stats.get("skipped") or not reporter.stats.get("passed"):
        reporter.write_line("ERROR: --require-peers was given, but not every test of a peer ran")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
