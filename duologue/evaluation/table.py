"""From verdicts to the table: every figure with its interval, its bar and whether it is reached.

A figure is reached when its value is on the right side of its bar; the interval says how sure that
is. What could not be measured is not reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from duologue.evaluation import statistics
from duologue.evaluation.cases import ANSWERED, ASKING, QUIET, Group
from duologue.evaluation.conversations import Record
from duologue.evaluation.judge import Verdict
from duologue.evaluation.statistics import Estimate


@dataclass(frozen=True)
class Bar:
    """What a figure has to reach."""

    value: float
    at_least: bool

    def reached(self, value: float | None) -> bool:
        if value is None:
            return False
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.value:g}"


def at_least(value: float) -> Bar:
    return Bar(value, at_least=True)


def at_most(value: float) -> Bar:
    return Bar(value, at_least=False)


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    key: str
    title: str
    unit: str
    """`%`, `s`, `ms`, `dB`, or nothing; values are in it."""
    estimate: Estimate
    bar: Bar | None = None

    @property
    def reached(self) -> bool | None:
        return None if self.bar is None else self.bar.reached(self.estimate.value)

    def as_dict(self) -> dict[str, Any]:
        found = self.estimate
        return {
            "key": self.key, "title": self.title, "unit": self.unit, "value": found.value,
            "low": found.low, "high": found.high, "n": found.n,
            "bar": None if self.bar is None else str(self.bar), "reached": self.reached,
        }  # fmt: skip


def conversation_figures(records: Sequence[Record]) -> list[Figure]:
    """All figures that come from conversations."""
    asking = _of(records, *(group for group in ASKING if group is not Group.BARGE_IN))
    rest = [v for v in _of(records, *Group) if v.false_triggers is not None]
    paused, quiet = _of(records, Group.PAUSE), _of(records, *QUIET)
    unknown, spoken = _of(records, Group.UNKNOWN), _of(records, *Group)
    interrupted = _of(records, Group.BARGE_IN)
    return [
        Figure("voice_wer", "voice against its own text: word error rate", "%",
               _rate((v.voice_errors, v.voice_words) for v in spoken), at_most(15)),
        Figure("trigger_recall", "looks up when asked for a fact", "%",
               _share(v.triggered for v in asking), at_least(95)),
        Figure("false_triggers", "looks up when nothing is asked", "%",
               _false_triggers(rest), at_most(5)),
        _answers(records, "answer_known", "right answer spoken: known entities",
                 (Group.KNOWN,), at_least(85)),
        _answers(records, "answer_changed", "right answer spoken: facts changed in the user's file",
                 (Group.CHANGED,), at_least(75)),
        _answers(records, "answer_unseen", "right answer spoken: entities never seen in training",
                 (Group.UNSEEN, Group.INVENTED), at_least(50)),
        _answers(records, "answer_personal", "right answer spoken: the user's own facts",
                 (Group.PERSONAL,), None),
        Figure("stt_wer", "hears the user: word error rate, voices never heard", "%",
               _rate((v.heard_errors, v.heard_words) for v in _of(records, *Group)), at_most(15)),
        Figure("stops", "silent within 0.5 s of an interruption", "%",
               _share(v.stopped for v in interrupted), at_least(90)),
        Figure("interruptible", "could be interrupted at all", "%",
               _share(v.stopped is not None for v in interrupted)),
        Figure("first_word", "first word after the end of the question, median", "s",
               statistics.quantile((v.reply_s for v in asking if v.reply_s is not None), 0.5),
               at_most(0.6)),
        Figure("replies", "replies at all", "%", _share(v.reply_s is not None for v in asking)),
        Figure("floor_taken", "takes the floor in a pause inside the question", "%",
               _share(v.floor_taken for v in paused), at_most(10)),
        Figure("leads_in", "leads in while it looks up", "%", _share(v.led_in for v in asking)),
        Figure("admits", "says that it does not know when a lookup fails", "%",
               _share(v.admitted for v in unknown)),
        Figure("makes_up", "makes up an answer when a lookup fails", "%",
               _share(v.made_up for v in unknown)),
        Figure("quiet", "keeps silent in silence and noise", "%",
               _share(v.kept_silent for v in quiet)),
        Figure("greets", "greets when it is to begin", "%",
               _share(v.greeted for v in _of(records, Group.GREETING))),
    ]  # fmt: skip


def stages(records: Sequence[Record]) -> dict[str, dict[str, Estimate]]:
    """Where answers are lost, by group: each step's share among all questions of the group."""
    steps: dict[str, Callable[[Verdict], bool | None]] = {
        "looked up": lambda v: v.triggered,
        "reference holds the answer": lambda v: v.reference_right,
        "answer in the text stream": lambda v: v.answer_written,
        "answer in the voice": lambda v: v.answer_spoken,
        "answer in the voice, open": lambda v: v.answer_read,
    }
    return {
        str(group): {name: _share(map(step, _of(records, group))) for name, step in steps.items()}
        for group in ANSWERED
        if _of(records, group)
    }


def by_detail(
    records: Sequence[Record], name: str, judged: Callable[[Verdict], bool | None]
) -> dict[str, Estimate]:
    """A share by something that is known of conversations: the user's voice, the relation."""
    found: dict[str, list[bool | None]] = {}
    for record in records:
        if value := record.details.get(name):
            found.setdefault(str(value), []).append(judged(record.verdict))
    shares = {value: _share(hits) for value, hits in sorted(found.items())}
    return {value: estimate for value, estimate in shares.items() if estimate.n}


def _of(records: Iterable[Record], *groups: Group) -> list[Verdict]:
    return [record.verdict for record in records if record.group in groups]


def _share(hits: Iterable[bool | None]) -> Estimate:
    """Per cent of those that could be judged."""
    return statistics.share(hit for hit in hits if hit is not None).scaled(100)


def _rate(pairs: Iterable[tuple[int | None, int]]) -> Estimate:
    """A word error rate in per cent."""
    judged = [(float(wrong), float(words)) for wrong, words in pairs if wrong is not None]
    return statistics.ratio(judged).scaled(100)


def _false_triggers(verdicts: Sequence[Verdict]) -> Estimate:
    """Of the turns that ask for nothing, in per cent; a conversation is one draw."""
    return statistics.ratio(
        (float(min(v.false_triggers or 0, v.turns)), float(v.turns)) for v in verdicts
    ).scaled(100)


def _answers(
    records: Sequence[Record], key: str, title: str, groups: tuple[Group, ...], bar: Bar | None
) -> Figure:
    return Figure(key, title, "%", _share(v.answer_spoken for v in _of(records, *groups)), bar)
