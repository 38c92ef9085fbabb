"""Has anything become slower? `python benchmarks/regression.py`, about two minutes.

Each guard is a ratio of two systems that take turns in one run on this machine, so that the machine
cancels out: our fast path and the readable one, or a peer. It must reach `KEPT` of what
docs/benchmarks.md has on record (`KEPT_ELSEWHERE` if that was measured on another model of
processor); times are never compared with times of another day. Ends with 1 when a guard is broken.
Names choose guards; `--list` shows them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import harness
import lm
import loop
import mimi

KEPT = 0.6
"""Of the recorded ratio: busy neighbours moved one by a third."""
KEPT_ELSEWHERE = 0.3
"""Of a ratio recorded on another processor: where a cache of 300 MB holds a codec's weights, and
matrices have units of their own, the readable path gained so much that 5.2 became 1.9."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Guard:
    """A ratio: how many times faster `ours` is than `other`."""

    question: str
    """Whose record it is compared with."""
    case: str
    ours: str
    other: str
    what: str
    """The time that is compared."""
    measure: Callable[[], dict[str, harness.Figures]]

    def recorded(self) -> tuple[float, float] | None:
        """The ratio on record and what must be kept of it, if this case was measured."""
        path = harness.RESULTS / f"{self.question}.json"
        if not path.exists():
            return None
        known = json.loads(path.read_text())
        here = harness.describe_machine()["processor"] == known["machine"]["processor"]
        rows: Rows = known["rows"]
        for row in rows:
            if row["case"] == self.case:
                systems = row["systems"]
                ratio = self._time(systems[self.other]) / self._time(systems[self.ours])
                return ratio, KEPT if here else KEPT_ELSEWHERE
        return None

    def measured(self) -> float:
        """The ratio now."""
        figures = self.measure()
        return figures[self.other].median(self.what) / figures[self.ours].median(self.what)

    def _time(self, summary: Mapping[str, Any]) -> float:
        return float(summary[self.what]["p50_ms"])


def _loop(batch: int) -> dict[str, harness.Figures]:
    options = {"threads": 1, "batch": batch}
    command = [harness.OUR_PYTHON, loop.__file__, "--work"]
    systems = [
        harness.System(name, command, {**options, "system": name}, repetitions)
        for name, repetitions in ((loop.OURS, 25), (loop.EAGER, 8))
    ]
    return harness.compare(systems, rounds=3, limit_s=8)


def _mimi(options: dict[str, Any]) -> dict[str, harness.Figures]:
    return harness.compare(mimi.systems(options, 8, (mimi.OURS, mimi.EAGER)), rounds=3, limit_s=12)


def _full_codec() -> dict[str, harness.Figures]:
    harness.ensure_prepared(mimi.QUESTION, mimi.__file__)
    return _mimi({"kind": "stream", "books": 8, "threads": 1})


def _recordings() -> dict[str, harness.Figures]:
    harness.ensure_prepared(mimi.QUESTION, mimi.__file__)
    options = {"kind": "offline", "books": 8, "threads": 2, "seconds": 10}
    return harness.compare(
        mimi.systems(options, 1, (mimi.OURS, mimi.EAGER)), rounds=3, deadline_s=30
    )


def _step(precision: str) -> dict[str, harness.Figures]:
    harness.ensure_prepared(lm.QUESTION, lm.__file__)
    asked = lm.systems({"precision": precision, "threads": 1}, (lm.OURS, lm.EAGER))
    return harness.compare(asked, rounds=3, limit_s=12)


def _small_codec() -> dict[str, harness.Figures]:
    return _mimi({"kind": "wren", "books": None, "threads": 1, "batch": 1})


GUARDS = {
    "loop": Guard("loop", "1-1", loop.OURS, loop.EAGER, "frame", lambda: _loop(1)),
    "loop of four": Guard("loop", "4-1", loop.OURS, loop.EAGER, "frame", lambda: _loop(4)),
    "wren's codec": Guard("mimi", "wren-1-1", mimi.OURS, mimi.EAGER, "both", _small_codec),
    "Mimi": Guard("mimi", "stream-8-1", mimi.OURS, mimi.EAGER, "both", _full_codec),
    "Mimi, recordings": Guard("mimi", "offline-10-2", mimi.OURS, mimi.EAGER, "both", _recordings),
    "a step in int8": Guard("lm", "int8-1", lm.OURS, lm.EAGER, "step", lambda: _step("int8")),
    "a step in int4": Guard("lm", "int4-1", lm.OURS, lm.EAGER, "step", lambda: _step("int4")),
}


def main(names: Sequence[str]) -> int:
    """Check guards, all by default; returns the exit status."""
    broken = 0
    for name in names or GUARDS:
        guard = GUARDS[name]
        found = guard.recorded()
        if found is None:
            print(f"{name}: {guard.case} is not in docs/benchmarks/{guard.question}.json yet")
            continue
        recorded, kept = found
        measured = guard.measured()
        good = measured >= kept * recorded
        broken += not good
        print(
            f"{name}: {measured:.1f} times faster than {guard.other}, {recorded:.1f} on record: "
            + ("good" if good else f"SLOWER than it was (at least {kept * recorded:.1f})"),
            flush=True,
        )
    return 1 if broken else 0


if __name__ == "__main__":
    if "--list" in sys.argv:
        print("\n".join(GUARDS))
    else:
        sys.exit(main(sys.argv[1:]))
