"""The report: one JSON for machines, one HTML page that needs nothing else, one picture.

The page has the table, where answers are lost, and for each group a few conversations to listen to,
failed ones first, each with its timeline. Sound is embedded as Ogg-Opus, both sides mixed; the
stereo files lie beside the page.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from duologue.audio.files import read_channels
from duologue.audio.opus import OggOpusEncoder
from duologue.checkpoints.save import write_json
from duologue.evaluation.cases import Group
from duologue.evaluation.conversations import Record
from duologue.evaluation.judge import Verdict
from duologue.evaluation.page import PAGE
from duologue.evaluation.statistics import Estimate
from duologue.evaluation.table import Figure
from duologue.evaluation.talker import SAMPLE_RATE, text_of_details
from duologue.evaluation.timeline import timeline
from duologue.synthesis.splits import Split

FORMAT = "duologue-evaluation-1"
EXAMPLES = 4
"""Conversations of each group on the page."""

Shares = Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True)
class Report:
    """Everything that an evaluation found."""

    system: str
    seed: int
    figures: Sequence[Figure]
    stages: Shares = field(default_factory=dict)
    breakdowns: Shares = field(default_factory=dict)
    """Shares of right answers by what is known of conversations."""
    records: Sequence[Record] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True
    """False for a quick look, with fewer conversations than a whole evaluation has."""
    split: Split = "test"
    """What it was measured on."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "system": self.system,
            "seed": self.seed,
            "split": self.split,
            "complete": self.complete,
            "machine": dict(self.machine),
            "figures": [figure.as_dict() for figure in self.figures],
            "stages": _plain(self.stages),
            "breakdowns": _plain(self.breakdowns),
            "conversations": [
                {"id": r.id, "group": str(r.group), **r.verdict.as_dict()} for r in self.records
            ],
        }


def write_report(report: Report, out: Path) -> list[Path]:
    """Write `report.json`, `report.html` and, if matplotlib is there, `report.png`."""
    written = [out / "report.json", out / "report.html"]
    write_json(written[0], report.as_dict())
    written[1].write_text(_page(report), encoding="utf-8")
    try:
        from duologue.evaluation.plot import draw
    except ImportError:
        return written
    draw(report.figures, out / "report.png", report.system)
    return [*written, out / "report.png"]


def passed(verdict: Verdict) -> bool:
    """Whether a conversation went as it should, as far as it was judged."""
    wanted = (
        verdict.triggered, verdict.answer_spoken, verdict.admitted, verdict.stopped,
        verdict.kept_silent, verdict.greeted,
    )  # fmt: skip
    unwanted = (verdict.false_triggers, verdict.floor_taken, verdict.made_up)
    return all(one is not False for one in wanted) and not any(unwanted)


def _page(report: Report) -> str:
    sections = [_table(report.figures)]
    if report.stages:
        sections.append(_shares("Where answers are lost", report.stages))
    if report.breakdowns:
        sections.append(_shares("Right answers spoken, by", report.breakdowns))
    sections += [_examples(group, report.records) for group in Group]
    note = "" if report.complete else " (a quick look, not the whole evaluation)"
    facts = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    return PAGE.substitute(
        title=escape(f"Evaluation of {report.system}"),
        facts=escape(f"seed {report.seed}, split {report.split}{note}; {facts}"),
        body="\n".join(sections),
        data=json.dumps(report.as_dict()["figures"]).replace("</", "<\\/"),
    )


def _table(figures: Sequence[Figure]) -> str:
    rows = []
    for figure in figures:
        state = {None: "", True: "reached", False: "missed"}[figure.reached]
        rows.append(
            f'<tr class="{state}"><td>{escape(figure.title)}</td>'
            f"<td>{_number(figure.estimate.value)} {escape(figure.unit)}</td>"
            f"<td>{_interval(figure.estimate)}</td><td>{figure.estimate.n}</td>"
            f"<td>{escape(str(figure.bar or ''))}</td><td>{state}</td></tr>"
        )
    head = "<tr><th>what</th><th>value</th><th>95 %</th><th>n</th><th>bar</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _shares(title: str, shares: Shares) -> str:
    blocks = []
    for name, parts in shares.items():
        cells = "".join(
            f"<tr><td>{escape(part)}</td><td>{_number(e.value)} %</td><td>{_interval(e)}</td>"
            f"<td>{e.n}</td></tr>"
            for part, e in parts.items()
        )
        blocks.append(f"<div><h3>{escape(name)}</h3><table>{cells}</table></div>")
    return f'<h2>{escape(title)}</h2><div class="blocks">{"".join(blocks)}</div>'


def _examples(group: Group, records: Sequence[Record]) -> str:
    mine = [record for record in records if record.group is group]
    failed = [record for record in mine if not passed(record.verdict)]
    well = [record for record in mine if passed(record.verdict)]
    shown = [*failed[: EXAMPLES // 2], *well][:EXAMPLES]
    shown += failed[EXAMPLES // 2 :][: EXAMPLES - len(shown)]
    if not shown:
        return ""
    figures = "".join(_example(record) for record in shown)
    said = f"{len(well)} of {len(mine)} as they should be"
    return f"<h2>{escape(str(group))}</h2><p>{said}</p>{figures}"


def _example(record: Record) -> str:
    pcm = np.asarray(read_channels(record.audio, SAMPLE_RATE), np.float32)
    state = "reached" if passed(record.verdict) else "missed"
    details = record.details
    verdict = {
        key: value for key, value in record.verdict.as_dict().items() if key not in _LONG_TEXTS
    }
    lines = {
        "answer": details.get("answer", ""),
        "text stream": text_of_details(details["text"]),
        "read from the voice": record.verdict.spoken,
        "among candidates": record.verdict.chosen,
        "heard from the user": text_of_details(details["heard"]),
        "verdict": ", ".join(f"{key} {value}" for key, value in verdict.items()),
    }
    listed = "".join(
        f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in lines.items() if text
    )
    return (
        f'<figure class="{state}"><figcaption>{escape(record.id)}</figcaption>'
        f"{timeline(pcm, SAMPLE_RATE, details)}"
        f'<audio controls preload="none" src="{_sound(pcm)}"></audio><dl>{listed}</dl></figure>'
    )


_LONG_TEXTS = ("spoken", "chosen")


def _sound(pcm: np.ndarray) -> str:
    """Both sides as one Ogg-Opus stream in a data URL."""
    coder = OggOpusEncoder(SAMPLE_RATE)
    data = coder.encode(np.clip(pcm.sum(axis=0), -1, 1).astype(np.float32)) + coder.flush()
    return f"data:audio/ogg;base64,{base64.b64encode(data).decode()}"


def _plain(shares: Shares) -> dict[str, Any]:
    return {
        name: {
            part: {"value": e.value, "low": e.low, "high": e.high, "n": e.n}
            for part, e in parts.items()
        }
        for name, parts in shares.items()
    }


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{_number(estimate.low)} to {_number(estimate.high)}"
