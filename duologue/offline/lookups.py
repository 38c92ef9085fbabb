"""The retrievals of a conversation, each put together from its events and measurements."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from duologue.dialogue import (
    Event,
    ReferenceInjected,
    RetrievalCancelled,
    RetrievalFailed,
    RetrievalStarted,
    RetrievalSucceeded,
    SpeculationEnded,
    SpeculationOutcome,
    Warning,
)
from duologue.offline.log import Asked, TalkLog

OPEN = "open"
"""Outcome of a retrieval that was still running when the conversation ended."""


@dataclass
class LookupRecord:
    """One retrieval. Steps are frames of the conversation; None is "never"."""

    sequence: int
    trigger_step: int
    question: str = ""
    start_step: int | None = None
    """When the lookup began for this retrieval, or was taken over from speculation."""
    asked_step: int | None = None
    """When the back end was asked; before the trigger, where that was speculation."""
    ended_step: int | None = None
    conditioning_step: int | None = None
    """When the first rows were installed; the first of them is in the next step."""
    rows: int = 0
    outcome: str = OPEN
    reason: str = ""
    reference: str = ""
    backend: str = ""
    label: str = ""
    confidence: float | None = None
    complete: bool = True
    speculative: bool = False
    sources: list[dict[str, str]] = field(default_factory=list)
    lookup_s: float | None = None
    """What asking really took."""
    encoding_s: float | None = None
    """What encoding the reference really took."""
    warnings: list[str] = field(default_factory=list)

    def to_data(self) -> dict[str, Any]:
        return asdict(self)


def retrievals(log: TalkLog) -> list[LookupRecord]:
    """All retrievals, in the order of their triggers."""
    records: dict[int, LookupRecord] = {}
    asked = {one.lookup: one for one in log.asked}
    for event in log.events:
        _note(event, records, asked)
    for one in log.asked:
        record = records.get(one.sequence) if one.sequence is not None else None
        if record is not None and record.asked_step is None:
            _ask(record, one, one.frame)
    for record in records.values():
        taken = [
            log.lookup_seconds[one.lookup]
            for one in log.asked
            if one.lookup in log.lookup_seconds and _belongs(one, record)
        ]
        record.lookup_s = max(taken, default=None)
        record.encoding_s = log.encoding_seconds.get(record.sequence)
    return list(records.values())


def _note(event: Event, records: dict[int, LookupRecord], asked: dict[int, Asked]) -> None:
    if isinstance(event, RetrievalStarted):
        records[event.sequence] = LookupRecord(event.sequence, event.frame)
        return
    sequence = getattr(event, "sequence", None)
    record = None if sequence is None else records.get(sequence)
    if record is None:
        return
    match event:
        case SpeculationEnded(outcome=SpeculationOutcome.ADOPTED):
            _ask(record, asked[event.lookup], event.frame)
        case RetrievalSucceeded():
            record.ended_step, record.outcome = event.frame, event.outcome.value
            record.reference, record.backend = event.text, event.backend
            record.label, record.confidence = event.label, event.confidence
            record.complete, record.speculative = event.complete, event.speculative
            record.sources = [
                {"title": source.title, "location": source.location} for source in event.sources
            ]
        case RetrievalFailed() | RetrievalCancelled():
            record.ended_step, record.outcome = event.frame, event.outcome.value
            record.backend = event.backend
            reason = event.reason
            record.reason = reason if isinstance(reason, str) else reason.value
        case ReferenceInjected():
            if record.conditioning_step is None:
                record.conditioning_step = event.frame
            record.rows += event.rows
        case Warning():
            record.warnings.append(f"{event.code.value}: {event.detail}")


def _ask(record: LookupRecord, asked: Asked, start_step: int) -> None:
    record.asked_step, record.start_step = asked.frame, start_step
    record.question = asked.question


def _belongs(asked: Asked, record: LookupRecord) -> bool:
    return asked.sequence == record.sequence or (
        asked.sequence is None and asked.frame == record.asked_step
    )
