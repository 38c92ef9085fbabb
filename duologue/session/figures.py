"""What the engine counts, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence

from duologue.engine.api import FRAME_S
from duologue.engine.timing import DurationStats


class Figures:
    """Counters since the start. Written by the tick thread; a reader may be one step behind."""

    def __init__(self) -> None:
        self.frame_times, self.lateness, self.latency = (DurationStats() for _ in range(3))
        self.steps = self.frames = self.overruns = self.caught_up = 0
        self.sessions_started = self.controls_dropped = 0
        self.input_frames_dropped = self.output_frames_dropped = 0
        """Of sessions that are gone."""

    def step(
        self, begin: float, end: float, due_s: float, arrivals: Sequence[float], behind: int
    ) -> None:
        """Count a step of frames that arrived then, `behind` of them long waiting."""
        self.frame_times.observe(end - begin)
        self.lateness.observe(max(0.0, end - due_s))
        for arrived_s in arrivals:
            self.latency.observe(max(0.0, end - arrived_s))
        self.steps += 1
        self.frames += len(arrivals)
        self.overruns += end - begin > FRAME_S
        self.caught_up += behind
