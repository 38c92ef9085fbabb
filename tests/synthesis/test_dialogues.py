"""Scripts: the same for ever, varied, complete, and without what is held out."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from duologue.synthesis.draw import Draw
from duologue.synthesis.engines.program import MissingProgramError
from duologue.synthesis.script import Dialogue, Novelty, Outcome, Speaker
from duologue.synthesis.speaker import spoken_form
from duologue.synthesis.splits import (
    HELD_OUT_ENTITIES,
    HELD_OUT_PHRASINGS,
    HELD_OUT_VOICES,
    SPLITS,
    Split,
    fact_split,
    name_split,
)
from duologue.synthesis.voices import WREN, cast, catalogue
from duologue.synthesis.world import bundled_fact_book
from duologue.synthesis.writer import (
    countries,
    elements,
    english,
    personal,
    questions,
    scenes,
    talk,
    tools,
)
from duologue.synthesis.writer.dialogues import CLASSES, write_dialogue
from duologue.synthesis.writer.lines import world_line
from duologue.synthesis.writer.loose import loose_names, loose_words, patchwork
from duologue.synthesis.writer.open_questions import open_question
from duologue.synthesis.writer.sentences import free_sentence

MANY = 2000


@cache
def scripts(split: Split) -> list[Dialogue]:
    return [write_dialogue(1, index, split) for index in range(MANY)]


def spoken(dialogue: Dialogue) -> list[str]:
    texts = []
    for turn in dialogue.turns:
        texts += [turn.lead, turn.filler, turn.text, *(sign.text for sign in turn.backchannels)]
    return [text for text in texts if text]


def test_a_dialogue_depends_on_its_key_alone() -> None:
    for index in (0, 7, 4711):
        assert write_dialogue(3, index, "train") == write_dialogue(3, index, "train")
    assert write_dialogue(3, 0, "train") != write_dialogue(4, 0, "train")
    assert write_dialogue(3, 0, "train") != write_dialogue(3, 0, "test")


def test_dialogues_hardly_ever_repeat() -> None:
    assert len({dialogue.text() for dialogue in scripts("train")}) > 0.99 * MANY
    references = {
        turn.lookup.reference for d in scripts("train") for turn in d.turns if turn.lookup
    }
    assert len(references) > 0.9 * MANY
    words = {word for d in scripts("train") for text in spoken(d) for word in text.split()}
    assert len(words) > 4500


def test_all_classes_and_outcomes_occur() -> None:
    assert {dialogue.label for dialogue in scripts("train")} == set(CLASSES)
    lookups = [turn.lookup for d in scripts("train") for turn in d.turns if turn.lookup]
    assert {lookup.outcome for lookup in lookups} == set(Outcome)
    novelties = [lookup.fact.novelty for lookup in lookups]
    assert set(novelties) == {Novelty.KNOWN, Novelty.CHANGED, Novelty.INVENTED, Novelty.LIVE}
    assert novelties.count(Novelty.KNOWN) < 0.4 * len(novelties)


@pytest.mark.parametrize("split", SPLITS)
def test_every_word_can_be_spoken(split: Split) -> None:
    for dialogue in scripts(split):
        for text in spoken(dialogue):
            assert all(spoken_form(word) for word in text.split()), text
            assert not re.search(r"[0-9{}\[\]|()_]", text), text
            assert text[0].isupper(), text
            assert text[-1] in ".?!", text


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_in_their_references_and_references_are_short(split: Split) -> None:
    lengths = []
    for dialogue in scripts(split):
        for turn in dialogue.turns:
            if turn.lookup is None:
                continue
            found = turn.lookup.outcome is Outcome.FOUND
            assert (turn.text == turn.lookup.reference) == found
            if found and turn.lookup.fact.answer not in ("none", "ancient"):
                assert turn.lookup.fact.answer.lower() in turn.lookup.reference.lower()
                lengths.append(len(turn.lookup.reference.split()))
    assert max(lengths) <= 24
    assert sum(length <= 16 for length in lengths) > 0.98 * len(lengths)


def test_pauses_and_barge_ins_are_where_they_can_be() -> None:
    seen = set()
    for dialogue in scripts("train"):
        for before, turn in zip((None, *dialogue.turns), dialogue.turns, strict=False):
            count = len(turn.text.split())
            assert all(0 < pause.after_words < count for pause in turn.pauses)
            assert [p.after_words for p in turn.pauses] == sorted(
                p.after_words for p in turn.pauses
            )
            if turn.barge_in:
                seen.add("barge_in")
                assert turn.speaker is Speaker.USER
                assert before is not None
                assert before.speaker is Speaker.WREN
                assert before.lookup is not None
                assert turn.barge_in.reaction_s < 0.5
    assert seen == {"barge_in"}


@pytest.mark.skipif(not english.FOLDER.is_dir(), reason="apt-get install wordnet-base")
def test_english_is_varied_and_can_be_read_out() -> None:
    texts = english.examples()
    assert len(set(texts)) == len(texts) > 30_000
    assert len({word for text in texts for word in text.lower().split()}) > 20_000
    assert all(re.fullmatch(r"[A-Za-z' ,;-]+[.?!]?", text) for text in texts)
    sentence = english.english_sentence(Draw("english"))
    assert sentence[0].isupper()
    assert sentence[-1] in ".?!"
    assert sentence == english.english_sentence(Draw("english"))


@pytest.mark.skipif(not english.FOLDER.is_dir(), reason="apt-get install wordnet-base")
def test_questions_about_anything_are_varied_and_name_nothing_held_out() -> None:
    draw = Draw("open")
    asked = [open_question(draw) for _ in range(MANY)]
    assert len(set(asked)) > 0.99 * MANY
    assert len({word for text in asked for word in text.lower().split()}) > 1000
    for text in asked:
        assert re.fullmatch(r"[A-Z][A-Za-z' ,-]+[.?]", text), text
        assert 3 <= len(text.split()) <= 40
        assert not any(holds(name, text) for names in HELD_OUT_ENTITIES.values() for name in names)
    assert open_question(Draw("open")) == asked[0]


def test_without_wordnet_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(english, "FOLDER", tmp_path / "none")
    english.examples.cache_clear()
    with pytest.raises(MissingProgramError, match="apt-get install wordnet-base"):
        english.english_sentence(Draw("english"))
    english.examples.cache_clear()


def test_stock_phrases_are_of_every_sort() -> None:
    draw = Draw("stock")
    said = {talk.stock_phrase(draw) for _ in range(MANY)}
    assert said >= {*talk.GREETINGS, *talk.LEADS, *talk.UNKNOWN, *talk.DECLINES, *talk.HEARD}
    assert "I only speak English." in said


def holds(name: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) is not None


def test_training_never_names_a_held_out_entity() -> None:
    everything = "\n".join(text for d in scripts("train") for text in spoken(d))
    draw = Draw("corpus lines")
    everything += "\n".join(world_line(draw, "train") for _ in range(MANY))
    everything += "\n".join(free_sentence(draw, "train") for _ in range(MANY))
    everything += "\n".join(loose_words(draw) for _ in range(MANY))
    everything += "\n".join(loose_names(draw) for _ in range(MANY))
    everything += "\n".join(patchwork(draw) for _ in range(MANY))
    if english.FOLDER.is_dir():
        everything += "\n".join(english.examples())
    for names in HELD_OUT_ENTITIES.values():
        for name in names:
            assert not holds(name, everything), name


def test_each_split_keeps_to_its_facts_names_and_phrasings() -> None:
    for split in SPLITS:
        others = {
            text for other, texts in HELD_OUT_PHRASINGS.items() if other != split for text in texts
        }
        for dialogue in scripts(split):
            for turn in dialogue.turns:
                assert turn.phrasing not in others
                if turn.lookup is None:
                    continue
                fact = turn.lookup.fact
                if fact.topic not in ("country", "element"):
                    continue
                if fact.novelty is Novelty.INVENTED:
                    assert name_split(fact.entity) == split
                elif fact.novelty in (Novelty.HELD_OUT_ENTITY, Novelty.HELD_OUT_FACT):
                    assert fact_split(fact.entity, fact.relation) == split
                else:
                    assert fact_split(fact.entity, fact.relation) == "train"


def test_evaluation_asks_in_its_own_words_and_about_what_is_new() -> None:
    for split in ("valid", "test"):
        asked = [t for d in scripts(split) for t in d.turns if t.act == "question" and t.phrasing]
        book = [turn for turn in asked if turn.phrasing in HELD_OUT_PHRASINGS[split]]
        assert len(book) > 0.95 * len(asked)
        novelties = {t.lookup.fact.novelty for d in scripts(split) for t in d.turns if t.lookup}
        assert novelties == set(Novelty)


def test_held_out_lists_name_things_that_exist() -> None:
    book = bundled_fact_book()
    names = {entity.name for entity in book.countries + book.elements}
    assert all(name in names for held_out in HELD_OUT_ENTITIES.values() for name in held_out)
    templates = {
        text
        for module in (countries, elements)
        for group in module.QUESTIONS.values()
        for text in group
    }
    for module in (tools, personal, questions, scenes):
        for value in vars(module).values():
            if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
                templates.update(value)
    for split, texts in HELD_OUT_PHRASINGS.items():
        for text in texts:
            assert text in templates, (split, text)
    assert not set(HELD_OUT_PHRASINGS["valid"]) & set(HELD_OUT_PHRASINGS["test"])


def test_every_kind_of_book_question_has_held_out_phrasings() -> None:
    for questions_of in (countries.QUESTIONS, elements.QUESTIONS):
        for relation, templates in questions_of.items():
            for split in ("valid", "test"):
                assert set(templates) & set(HELD_OUT_PHRASINGS[split]), (relation, split)


def test_no_voice_is_shared_between_splits() -> None:
    speakers = {split: {voice.speaker for voice in catalogue(split)} for split in SPLITS}
    assert speakers["valid"] == set(HELD_OUT_VOICES["valid"])
    assert speakers["test"] == set(HELD_OUT_VOICES["test"])
    assert not speakers["train"] & (speakers["valid"] | speakers["test"])
    draw = Draw("cast")
    for split in SPLITS:
        for _ in range(500):
            voice = cast(draw, split)
            assert voice.speaker in speakers[split]
            assert voice.speaker != WREN.speaker or abs(voice.tract - 1.0) > 0.05
