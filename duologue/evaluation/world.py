"""What may be said in the evaluation world: the sentences the independent recogniser listens for.

`world_sentences` is everything, for word error rates. `answer_key` is what may be said in reply to
one question: what wren says of itself (leads, fillers, the admission not to know), and the carrier
sentences of the question's kind, each with every candidate answer. Which candidate was said is the
recogniser's choice among thirty or so that it thinks equally likely, fewer where the world has
fewer (states of matter, continents).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from duologue.evaluation.cases import Case, Group
from duologue.evaluation.grammar import Grammar, choices
from duologue.evaluation.words import Same, said, spoken_words
from duologue.synthesis.draw import Draw
from duologue.synthesis.script import FactId, Novelty
from duologue.synthesis.splits import Split
from duologue.synthesis.world import bundled_fact_book, capitalise, state_fact
from duologue.synthesis.writer import countries, elements, facts, talk
from duologue.synthesis.writer.personal import ask_personal
from duologue.synthesis.writer.questions import any_question

Words = tuple[str, ...]

CANDIDATES = 32
_POOL = 1500
_MOST_DRAWS = 400
_NO_NEIGHBOURS = "no neighbours"
_ADMISSIONS = tuple(map(spoken_words, ("don't know", "could not find", "do not know")))
_GREETS = frozenset(("hello", "hi", "wren", "help", "know", "ask"))

OWN_LINES = tuple(line for lines in talk.STOCK for line in lines)
"""Everything that wren says without looking anything up."""


@dataclass(frozen=True)
class AnswerKey:
    """What must be said in reply to a question, and what might be."""

    answer: Words
    rivals: tuple[Words, ...]
    """Other answers among which a recogniser may choose."""
    grammar: Grammar

    def heard_in(self, heard: Sequence[str], same: Same) -> bool:
        return said(self.answer, heard, same)


def answer_of(fact: FactId) -> Words:
    """The words that an answer must contain."""
    return spoken_words(_NO_NEIGHBOURS if fact.answer == "none" else fact.answer)


def admits(heard: Sequence[str], same: Same) -> bool:
    """Whether somebody says that they do not know."""
    return any(said(phrase, heard, same) for phrase in _ADMISSIONS)


def leads_in(heard: Sequence[str], same: Same) -> bool:
    """Whether somebody says one of wren's leads; "Let me see."."""
    return any(said(spoken_words(lead), heard, same) for lead in talk.LEADS)


def greets(heard: Sequence[str]) -> bool:
    """Whether somebody greets: at least two words that only wren's greetings have."""
    return len(_GREETS.intersection(heard)) >= 2


def answer_key(case: Case) -> AnswerKey:
    """The key of a case with a lookup."""
    fact = case.fact
    assert fact is not None
    draw = Draw("candidates", case.script.seed, case.id)
    if fact.topic == "personal":
        sentences, values = _personal(case, fact)
    else:
        sentences, values = _book(draw, case, fact)
    truth = answer_of(fact)
    rivals = (value for value in dict.fromkeys(values) if value != truth)
    return AnswerKey(truth, tuple(rivals), choices(sentences, map(spoken_words, OWN_LINES)))


def world_sentences(cases: Iterable[Case], pool: int = _POOL, split: Split = "test") -> list[Words]:
    """What the conversations of an evaluation may contain, on either side.

    `pool` is the number of questions and answers that are not asked: they keep the recogniser from
    knowing too well what is. They are of `split`, which is that of the cases.
    """
    texts: list[str] = list(OWN_LINES)
    draw = Draw("evaluation world")
    for case in cases:
        for turn in case.script.turns:
            if turn.lookup:
                texts += [f"{turn.lead} {turn.text}", f"{turn.filler} {turn.text}"]
                texts += [f"{turn.lead} {turn.filler} {turn.text}", turn.lookup.reference]
            elif turn.text:
                texts.append(turn.text)
        if case.group in (Group.KNOWN, Group.UNSEEN, Group.CHANGED, Group.BARGE_IN, Group.PAUSE):
            texts += [f"{draw.choice(talk.LEADS)} {sentence}" for sentence, _ in _plain(case)]
        if case.interruption:
            texts.append(case.interruption.text)
    for number in range(pool):
        asked = any_question(draw.split(number), split)
        texts += [asked.text, asked.reference, f"{draw.choice(talk.LEADS)} {asked.reference}"]
    return [words for words in map(spoken_words, texts) if words]


def _plain(case: Case) -> Iterator[tuple[str, str]]:
    """How the fact book itself words a case's fact, and the value it gives."""
    fact = case.fact
    if fact is None or fact.novelty in (Novelty.INVENTED, Novelty.LIVE):
        return
    stated = state_fact(bundled_fact_book().entity(fact.entity), fact.relation)
    if stated is not None:
        yield stated.sentence, stated.value


def _book(draw: Draw, case: Case, fact: FactId) -> tuple[list[Words], list[Words]]:
    """Carrier sentences with candidate values, and the values."""
    subject = (
        facts.Subject(fact.topic, fact.entity, fact.entity, None)
        if fact.novelty is Novelty.INVENTED
        else facts.as_subject(bundled_fact_book().entity(fact.entity))
    )
    values, split = dict.fromkeys([fact.answer]), case.script.split
    for number in range(_MOST_DRAWS):
        if len(values) >= CANDIDATES:
            break
        other, _ = facts.answer(draw.split(number), split, subject, fact.relation, Novelty.CHANGED)
        values[other.answer] = None
    if subject.entity is not None and (own := subject.entity.values.get(fact.relation)):
        values[own] = None
    table = countries.STATEMENTS if fact.topic == "country" else elements.STATEMENTS
    names = {"{e}": subject.spoken, "{E}": capitalise(subject.spoken)}
    carriers = [_replaced(text, names) for text in table[fact.relation]]
    carriers += [_carrier(case.reference, fact.answer), *(_carrier(*pair) for pair in _plain(case))]
    filled = [text.replace("{v}", value) for text in dict.fromkeys(carriers) for value in values]
    return [spoken_words(text) for text in filled], [spoken_words(value) for value in values]


def _replaced(text: str, slots: Mapping[str, str]) -> str:
    for slot, value in slots.items():
        text = text.replace(slot, value)
    return text


def _carrier(sentence: str, value: str) -> str:
    """A sentence with a slot in place of a value, if it has it word for word."""
    return re.sub(rf"\b{re.escape(value)}\b", "{v}", sentence, flags=re.IGNORECASE)


def _personal(case: Case, fact: FactId) -> tuple[list[Words], list[Words]]:
    """Other facts of the same kind, and this one with their answers."""
    others = _personal_facts(case.script.split).get(fact.relation, ())
    references = [case.reference, *(reference for reference, _ in others)]
    values = dict.fromkeys([fact.answer, *(answer for _, answer in others)])
    own = _carrier(case.reference, fact.answer)
    references += [own.replace("{v}", value) for value in values]
    return [spoken_words(text) for text in references], [spoken_words(v) for v in values]


@cache
def _personal_facts(split: Split) -> dict[str, tuple[tuple[str, str], ...]]:
    """References and answers of facts of the user's own, by kind."""
    draw = Draw("candidates", "personal")
    found: dict[str, dict[str, str]] = {}
    for number in range(_POOL):
        one = ask_personal(draw.split(number), split)
        same_kind = found.setdefault(one.relation, {})
        if len(same_kind) < CANDIDATES:
            same_kind[one.answer] = one.reference
    return {
        relation: tuple((reference, answer) for answer, reference in pairs.items())
        for relation, pairs in found.items()
    }
