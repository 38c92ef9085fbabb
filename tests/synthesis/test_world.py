"""The fact book: complete, consistent, and clear about what is wrong with a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from duologue.synthesis.world import (
    BUNDLED_FACT_BOOK,
    COUNTRY_RELATIONS,
    FactBookError,
    bundled_fact_book,
    load_fact_book,
    state_fact,
)

COUNTRIES = "name,article,capital,currency,continent,language,population,neighbours\n"
ELEMENTS = "number,symbol,name,category,state,discovered\n1,H,hydrogen,nonmetal,gas,1766\n"


def write_book(folder: Path, countries: str, elements: str = ELEMENTS) -> Path:
    (folder / "countries.csv").write_text(countries)
    (folder / "elements.csv").write_text(elements)
    return folder


def test_the_bundled_book_is_complete() -> None:
    book = bundled_fact_book()
    assert len(book.countries) == 197
    assert len(book.elements) == 118
    for country in book.countries:
        for relation in COUNTRY_RELATIONS:
            assert state_fact(country, relation) is not None, (country.name, relation)


def test_neighbours_are_mutual() -> None:
    mentions = {country.name: set(country.mentions) for country in bundled_fact_book().countries}
    for name, neighbours in mentions.items():
        for other in neighbours:
            assert name in mentions[other], f"{name} - {other}"


@pytest.mark.parametrize(
    ("entity", "relation", "sentence"),
    [
        ("France", "capital", "The capital of France is Paris."),
        ("Netherlands", "currency", "The currency of the Netherlands is the euro."),
        ("Japan", "population", "About one hundred twenty four million people live in Japan."),
        ("Portugal", "neighbours", "The only neighbour of Portugal is Spain."),
        ("Iceland", "neighbours", "Iceland has no neighbours by land."),
        ("Senegal", "neighbours", "The neighbours of Senegal are the Gambia, Guinea, Guinea Bissau"
         " and two others."),
        ("iron", "symbol", "The symbol of iron is F E."),
        ("iron", "discovered", "Iron has been known since ancient times."),
        ("argon", "number", "The atomic number of argon is eighteen."),
        ("mercury", "state", "At room temperature mercury is a liquid."),
    ],
)  # fmt: skip
def test_facts_are_worded_for_speech(entity: str, relation: str, sentence: str) -> None:
    fact = state_fact(bundled_fact_book().entity(entity), relation)
    assert fact is not None
    assert fact.sentence == sentence


def test_the_sentences_file_is_up_to_date() -> None:
    written = (BUNDLED_FACT_BOOK / "facts.md").read_text(encoding="utf-8")
    assert written == bundled_fact_book().markdown(), "run: python -m duologue.synthesis.world"


def test_a_book_of_the_users_own(tmp_path: Path) -> None:
    row = "France,,Lyon,franc,Europe,French,12000,\n"
    book = load_fact_book(write_book(tmp_path, COUNTRIES + row))
    fact = state_fact(book.entity("France"), "capital")
    assert fact is not None
    assert fact.sentence == "The capital of France is Lyon."


@pytest.mark.parametrize(
    ("countries", "elements", "message"),
    [
        ("name,capital\nFrance,Lyon\n", ELEMENTS, "column missing: article, currency"),
        (COUNTRIES + "France,,,franc,Europe,French,12,\n", ELEMENTS, "line 2: capital is empty"),
        (COUNTRIES + "France,,Lyon,franc,Europe,French,many,\n", ELEMENTS, "population must be"),
        (COUNTRIES + "France,,Lyon,franc,Europe,French,12,Spain\n", ELEMENTS, "neighbour: Spain"),
        (COUNTRIES, ELEMENTS + "2,He,helium,noble gas,plasma,1868\n", "line 3: state must be"),
        (COUNTRIES, ELEMENTS + "2,H,hydrogen,nonmetal,gas,1766\n", "listed twice: hydrogen"),
    ],
)
def test_errors_name_file_and_fault(
    tmp_path: Path, countries: str, elements: str, message: str
) -> None:
    with pytest.raises(FactBookError, match=message):
        load_fact_book(write_book(tmp_path, countries, elements))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FactBookError, match=r"countries\.csv: no such file"):
        load_fact_book(tmp_path)
