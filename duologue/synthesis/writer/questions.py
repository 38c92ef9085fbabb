"""Questions of every topic, the turns that ask them and the turns that answer them."""

from __future__ import annotations

from dataclasses import dataclass

from duologue.synthesis.draw import Draw
from duologue.synthesis.grammar import Phrase
from duologue.synthesis.script import Delay, FactId, Lookup, Novelty, Outcome, Speaker, Turn
from duologue.synthesis.splits import Split
from duologue.synthesis.writer import facts, talk
from duologue.synthesis.writer.countries import CONFUSABLE
from duologue.synthesis.writer.personal import ask_personal
from duologue.synthesis.writer.tools import ask_tool

_REPLY_GAP_S = (0.2, 0.4)
_NEXT_TURN_S = (0.4, 1.7)
_LOOKUP_FAILS = 0.06
_LATE = 0.14


@dataclass(frozen=True)
class Asked:
    """A question, ready to be put into turns."""

    text: str
    phrasing: str
    fact: FactId
    reference: str
    subject: facts.Subject | None = None


def any_question(draw: Draw, split: Split) -> Asked:
    """A question of any topic."""
    topic = draw.weighted({"book": 0.6, "personal": 0.25, "tool": 0.15})
    return {"book": book_question, "personal": personal_question, "tool": tool_question}[topic](
        draw, split
    )


def book_question(draw: Draw, split: Split) -> Asked:
    novelty = facts.draw_novelty(draw, split)
    subject = facts.draw_subject(draw, split, novelty)
    relation = draw.choice(facts.possible_relations(subject, split, novelty))
    found = facts.ask(draw, split, subject, relation, novelty)
    return Asked(found.phrase.text, found.phrase.template, found.fact, found.reference, subject)


def personal_question(draw: Draw, split: Split) -> Asked:
    found = ask_personal(draw, split)
    fact = FactId("personal", found.entity, found.relation, found.answer, Novelty.INVENTED)
    return Asked(found.phrase.text, found.phrase.template, fact, found.reference)


def tool_question(draw: Draw, split: Split) -> Asked:
    found = ask_tool(draw, split)
    fact = FactId("tool", found.entity, found.relation, found.answer, Novelty.LIVE)
    return Asked(found.phrase.text, found.phrase.template, fact, found.reference)


def user(draw: Draw, act: str, text: str, phrasing: str = "", gap_s: float | None = None) -> Turn:
    gap = draw.between(*_NEXT_TURN_S) if gap_s is None else gap_s
    return Turn(Speaker.USER, act, text, gap, phrasing=phrasing)


def wren(draw: Draw, act: str, text: str) -> Turn:
    return Turn(Speaker.WREN, act, text, draw.between(*_REPLY_GAP_S))


def reply(draw: Draw, asked: Asked, outcome: Outcome | None = None, act: str = "answer") -> Turn:
    """Lead, lookup, and either the reference or the admission that nothing was found."""
    if outcome is None:
        outcome = Outcome.FOUND
        if draw.chance(_LOOKUP_FAILS):
            outcome = draw.choice((Outcome.EMPTY, Outcome.FAILED, Outcome.LOST))
    found = outcome is Outcome.FOUND
    return Turn(
        Speaker.WREN,
        act if found else "unknown",
        asked.reference if found else draw.choice(talk.UNKNOWN),
        draw.between(*_REPLY_GAP_S),
        lead=draw.choice(talk.LEADS),
        filler=draw.choice(talk.FILLERS),
        lookup=Lookup(asked.fact, asked.reference if found else "", outcome, _delay(draw)),
    )


def _delay(draw: Draw) -> Delay:
    """Mostly while the lead lasts, as published; sometimes so late that wren has to wait."""
    if draw.chance(_LATE):
        return Delay(1.3, 2.8, draw.unit())
    if draw.chance(0.5):
        return Delay(0.08, None, draw.unit())
    return Delay(0.3, 1.3, draw.unit())


def question(draw: Draw, asked: Asked, following: bool = False) -> Turn:
    text = talk.with_opener(draw, asked.text, 0.4 if following else 0.3, following)
    return user(draw, "question", text, asked.phrasing)


def as_asked(found: facts.FactQuestion) -> Asked:
    return Asked(
        found.phrase.text, found.phrase.template, found.fact, found.reference, found.subject
    )


def lean(
    draw: Draw,
    split: Split,
    phrase: Phrase,
    subject: facts.Subject,
    relation: str,
    novelty: Novelty,
) -> Asked:
    """A question that is only complete together with an earlier one."""
    if subject.entity is not None and relation not in facts.possible_relations(
        subject, split, novelty
    ):
        novelty = Novelty.CHANGED
    fact, reference = facts.answer(draw, split, subject, relation, novelty)
    return Asked(phrase.text, phrase.template, fact, reference, subject)


def related_subject(
    draw: Draw, split: Split, subject: facts.Subject, relation: str, novelty: Novelty
) -> facts.Subject:
    """Another subject of the same kind that has the relation; one that sounds alike if there is."""
    if subject.entity is None:
        return facts.invented_subject(draw, split, subject.kind)
    alike = {other for pair in CONFUSABLE if subject.name in pair for other in pair}
    held_out = novelty in (Novelty.HELD_OUT_ENTITY, Novelty.HELD_OUT_FACT)
    pool = facts.entities(split if novelty is Novelty.HELD_OUT_ENTITY else "train")
    usable = [
        other
        for other in map(facts.as_subject, pool)
        if other.kind == subject.kind
        and other.name != subject.name
        and relation in facts.possible_relations(other, split, novelty)
    ]
    similar = [s for s in usable if s.name in alike]
    if similar and not held_out and draw.chance(0.7):
        return draw.choice(similar)
    return draw.choice(usable) if usable else facts.invented_subject(draw, split, subject.kind)
