"""What the server counts, for Prometheus. Names begin with `duologue_`.

The engine's figures are read when they are asked for (`EngineCollector`), so nothing here touches
the frame clock. Labels have few values: back ends the engine knows, outcomes, codes, reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from duologue.dialogue import (
    Event,
    ReferenceInjected,
    RetrievalCancelled,
    RetrievalFailed,
    RetrievalStarted,
    RetrievalSucceeded,
)
from duologue.engine.api import FRAME_S, EngineStats, FrameTimes

LATENCY_BUCKETS = (0.08, 0.16, 0.24, 0.4, 0.8, 1.2, 1.6, 2.4, 4.0, 8.0)
KNOWN_CODES = frozenset({1000, 1001, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 4001})
MAX_OPEN_RETRIEVALS = 4096


class ServerMetrics:
    """The server's own counters, and the registry that also holds the engine's."""

    def __init__(self, backends: tuple[str, ...] = ()) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._backends = frozenset(backends)
        self._triggered: dict[tuple[str, int], int] = {}
        self.opened = self._counter(
            "sessions_opened", "Sessions by door and whether they were resumed.", "door", "resumed"
        )
        self.refused = self._counter("refused", "Requests turned away, by reason.", "reason")
        self.closes = self._counter("websocket_closes", "Visits by close code.", "code")
        self.ignored = self._counter("messages_ignored", "Messages without effect.", "reason")
        self.retrieval_seconds = self._histogram(
            "retrieval_seconds", "Trigger to last word of the answer.", "backend", "outcome"
        )
        self.injection_seconds = self._histogram(
            "reference_injection_seconds", "Trigger to the first row of the reference."
        )

    def watch(self, stats: Callable[[], EngineStats]) -> None:
        """Include an engine's figures."""
        self.registry.register(EngineCollector(stats))

    def watch_log(self, lost: Callable[[], int]) -> None:
        """Include how many log lines were lost."""
        self.registry.register(_LogCollector(lost))

    def observe(self, session: str, event: Event) -> None:
        """Count what an event says about retrieval."""
        match event:
            case RetrievalStarted(sequence=sequence, frame=frame):
                if len(self._triggered) < MAX_OPEN_RETRIEVALS:
                    self._triggered[session, sequence] = frame
            case RetrievalSucceeded() | RetrievalFailed() | RetrievalCancelled():
                backend = event.backend if event.backend in self._backends else "other"
                outcome = event.outcome.value
                self.retrieval_seconds.labels(backend, outcome).observe(event.latency * FRAME_S)
                if not isinstance(event, RetrievalSucceeded):
                    self._triggered.pop((session, event.sequence), None)
            case ReferenceInjected(sequence=sequence, frame=frame):
                begun = self._triggered.pop((session, sequence), None)
                if begun is not None:
                    self.injection_seconds.observe((frame - begun) * FRAME_S)

    def closed(self, code: int) -> None:
        """Count the end of a visit; codes that clients make up are counted together."""
        self.closes.labels(str(code) if code in KNOWN_CODES else "other").inc()

    def forget(self, session: str) -> None:
        """Drop what is remembered of a session's open lookups."""
        for key in [key for key in self._triggered if key[0] == session]:
            del self._triggered[key]

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"duologue_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(
            f"duologue_{name}", text, labels, registry=self.registry, buckets=LATENCY_BUCKETS
        )


class EngineCollector(Collector):
    """An engine's figures as metrics, read at each scrape."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        gauges = {
            "slots": ("Conversations that can be held at a time.", stats.slots),
            "slots_in_use": ("Conversations held, detached ones included.", stats.in_use),
            "sessions_detached": ("Sessions that wait for their client.", stats.detached),
            "sessions_preparing": ("Sessions whose voice is being prepared.", stats.preparing),
            "engine_healthy": ("1 while the engine makes frames.", float(stats.healthy)),
            "draining": ("1 when no new sessions are taken.", float(stats.draining)),
            "input_queue_frames": (
                "User frames waiting, all sessions.",
                stats.input_frames_waiting,
            ),
            "output_queue_events": ("Events waiting to be sent.", stats.output_events_waiting),
        }
        for name, (text, level) in gauges.items():
            yield GaugeMetricFamily(f"duologue_{name}", text, value=level)
        counters = {
            "engine_steps": ("Batched model steps.", stats.steps),
            "frames": ("Frames of conversation made.", stats.frames),
            "frame_overruns": ("Steps that took longer than a frame.", stats.overruns),
            "frames_caught_up": ("Frames made in extra steps.", stats.caught_up),
            "input_frames_dropped": ("User frames lost.", stats.input_frames_dropped),
            "output_frames_dropped": ("Model frames lost.", stats.output_frames_dropped),
            "controls_dropped": ("Controls that came too fast.", stats.controls_dropped),
            "sessions_started": ("Sessions begun.", stats.sessions_started),
            "conversation_logs_truncated": ("Event logs cut short.", stats.logs_truncated),
        }
        for name, (text, count) in counters.items():
            yield CounterMetricFamily(f"duologue_{name}", text, value=count)
        yield _times("frame_step_seconds", "Time of a batched step.", stats.frame_times)
        yield _times("frame_lateness_seconds", "When due to events out.", stats.lateness)
        yield _times("frame_latency_seconds", "Frame in to events out.", stats.latency)
        ended = CounterMetricFamily(
            "duologue_sessions_ended", "Sessions ended, by reason.", labels=["reason"]
        )
        for reason, count in stats.sessions_ended.items():
            ended.add_metric([reason], count)
        yield ended
        lookups = CounterMetricFamily(
            "duologue_lookups", "Questions to back ends.", labels=["backend", "outcome"]
        )
        for backend, seen in stats.retrieval.items():
            outcomes = ("started", "answered", "empty", "failed", "timed_out", "cancelled")
            for outcome in outcomes:
                lookups.add_metric([backend, outcome], getattr(seen, outcome))
        yield lookups


class _LogCollector(Collector):
    def __init__(self, lost: Callable[[], int]) -> None:
        self._lost = lost

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "duologue_log_lines_lost", "Log lines that could not be written.", value=self._lost()
        )


def _times(name: str, text: str, times: FrameTimes) -> HistogramMetricFamily:
    buckets = [
        ("+Inf" if bound == float("inf") else repr(float(bound)), float(count))
        for bound, count in times.buckets or ((float("inf"), times.count),)
    ]
    return HistogramMetricFamily(f"duologue_{name}", text, buckets=buckets, sum_value=times.total_s)
