"""An online quantile estimate of how long a back end takes, in frames.

Latencies are small whole numbers here, so a histogram with one bucket per frame is exact, cheap
and bounded; each observation makes all earlier ones count a little less, so the estimate follows
a back end whose speed changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BUCKETS = 64
"""The last bucket also holds everything slower (5 s and more)."""

DECAY = 0.97
"""Weight kept at each observation: about the last 33 count."""


@dataclass
class LatencyHistogram:
    """Decaying counts of latencies; `seen` is the plain number of observations."""

    weights: list[float] = field(default_factory=lambda: [0.0] * BUCKETS)
    seen: int = 0

    def __post_init__(self) -> None:
        if len(self.weights) != BUCKETS:
            raise ValueError(f"a latency histogram has {BUCKETS} buckets, not {len(self.weights)}")

    def observe(self, frames: int) -> None:
        """Add one latency; for a lookup stopped early, its age is a lower bound worth adding."""
        self.weights = [weight * DECAY for weight in self.weights]
        self.weights[min(max(frames, 0), BUCKETS - 1)] += 1.0
        self.seen += 1

    def quantile(self, q: float) -> int:
        """Return the smallest latency that at least a fraction `q` of the weight does not exceed.

        With nothing observed it is 0.
        """
        target = q * sum(self.weights)
        total = 0.0
        for frames, weight in enumerate(self.weights):
            total += weight
            if weight > 0 and total >= target:
                return frames
        return max((f for f, weight in enumerate(self.weights) if weight > 0), default=0)

    def copy(self) -> LatencyHistogram:
        """Return an independent copy, for handing what one session learnt to the next."""
        return LatencyHistogram(list(self.weights), self.seen)
