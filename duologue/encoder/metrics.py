"""Prometheus metrics of the encoder: what waits, what it costs, what the cache saves.

No label and no value holds anything of a text. One object per process or per registry; parts
that are given none count into a registry of their own that nobody reads.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.08, 0.16, 0.32, 0.64, 1.5, 5.0, 10.0)
"""Buckets around the 80 ms of a frame."""


class EncoderMetrics:
    """See the module; the attributes are the metrics."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self.requests = Counter(
            "encoder_requests", "Answers of the service.", ["status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "encoder_request_seconds", "From request to answer, waiting included.",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.batch_seconds = Histogram(
            "encoder_batch_seconds", "Computation of one batch.",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.batch_texts = Histogram(
            "encoder_batch_texts", "Texts of one batch.",
            buckets=(1, 2, 4, 8, 16, 32), registry=self.registry,
        )  # fmt: skip
        self.waiting = Gauge("encoder_waiting_texts", "Texts in the queue.", registry=self.registry)
        self.rejected = Counter(
            "encoder_rejected", "Texts not encoded, by reason.", ["reason"], registry=self.registry
        )
        self.cache_hits = Counter("encoder_cache_hits", "Found.", registry=self.registry)
        self.cache_misses = Counter("encoder_cache_misses", "Computed.", registry=self.registry)
        self.cache_bytes = Gauge("encoder_cache_bytes", "Kept.", registry=self.registry)
