"""What a system under test may look things up in: files, as a user would give them.

Each group has one folder of files for all of its cases, so that finding the right sentence is part
of the task. The fact book is the bundled one; `changed` is a copy of it with other values for the
facts that are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from duologue.evaluation.cases import Case, Group
from duologue.synthesis.script import Outcome
from duologue.synthesis.world import BUNDLED_FACT_BOOK, bundled_fact_book, capitalise

FACT_BOOK = BUNDLED_FACT_BOOK / "facts.md"
_OWN_FACTS = (Group.INVENTED, Group.PERSONAL)
_NOTHING = "The kettle in the hall is for guests only.\n"


class Fault(StrEnum):
    """What is wrong with looking things up."""

    NONE = "none"
    FAILS = "fails"
    """Every lookup ends with an error."""
    NEVER_ANSWERS = "never_answers"


@dataclass(frozen=True)
class Knowledge:
    """Where answers come from in one conversation."""

    files: tuple[Path, ...]
    fault: Fault = Fault.NONE
    reference: str = ""
    """What a perfect lookup finds; empty when there is nothing to be found."""
    delay_s: float | None = None
    """How long it took in the recording; None if nothing ever came."""


class Library:
    """Writes the files of all groups into a folder, each once."""

    def __init__(self, folder: Path, cases: Sequence[Case]) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._files = dict.fromkeys(Group, FACT_BOOK)
        for group in (*_OWN_FACTS, Group.CHANGED):
            mine = [case for case in cases if case.group is group]
            self._files[group] = folder / f"{group}.md"
            text = _changed_book(mine) if group is Group.CHANGED else _sentences(group, mine)
            self._files[group].write_text(text, encoding="utf-8")
        self._nothing = folder / "nothing.md"
        self._nothing.write_text(_NOTHING, encoding="utf-8")

    def for_case(self, case: Case, delay_s: float | None) -> Knowledge:
        """What may be looked up in a conversation."""
        if case.outcome is Outcome.FOUND:
            return Knowledge((self._files[case.group],), Fault.NONE, case.reference, delay_s)
        if case.group is not Group.UNKNOWN:
            return Knowledge((FACT_BOOK,), delay_s=delay_s)
        fault = {Outcome.FAILED: Fault.FAILS, Outcome.LOST: Fault.NEVER_ANSWERS}.get(case.outcome)
        return Knowledge((self._nothing,), fault or Fault.NONE, delay_s=delay_s)


def _sentences(group: Group, cases: Sequence[Case]) -> str:
    lines = [f"# {'My notes' if group is Group.PERSONAL else 'Facts'}", ""]
    return "\n".join([*lines, *(f"- {case.reference}" for case in cases)]) + "\n"


def _changed_book(cases: Sequence[Case]) -> str:
    """The fact book in its own form, with the references of some cases in place of its facts."""
    changed = {
        (case.fact.entity, case.fact.relation): case.reference for case in cases if case.fact
    }
    lines = ["# Fact book"]
    heading = ""
    for fact in bundled_fact_book().facts():
        if fact.entity != heading:
            heading = fact.entity
            lines += ["", f"## {capitalise(heading)}", ""]
        lines.append(f"- {changed.pop((fact.entity, fact.relation), fact.sentence)}")
    assert not changed, f"not in the fact book: {sorted(changed)}"
    return "\n".join(lines) + "\n"
