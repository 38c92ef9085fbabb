"""The fact book: what wren can look up without being told anything.

Two CSV files that a user can read, correct and replace: `countries.csv` and `elements.csv` (columns
in the README beside them). Here they become entities whose values are already worded for speech,
and facts: one short sentence each. `facts.md` is the same book as sentences, for any knowledge base
that reads plain text; `FactBook.markdown` writes it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from duologue.synthesis.numbers import join_list, say_integer, say_rounded, say_year, spell

BUNDLED_FACT_BOOK = Path(__file__).parent.parent / "data" / "factbook"
COUNTRY_RELATIONS = ("capital", "currency", "continent", "language", "population", "neighbours")
ELEMENT_RELATIONS = ("symbol", "number", "category", "state", "discovered")

_COUNTRY_COLUMNS = ("name", "article", *COUNTRY_RELATIONS)
_ELEMENT_COLUMNS = ("number", "symbol", "name", "category", "state", "discovered")
_STATES = ("solid", "liquid", "gas", "")
_NAMED_NEIGHBOURS = 4
ANCIENT = "ancient"


class FactBookError(ValueError):
    """A fact book file is missing or a row of it cannot be used; the text names file and line."""


@dataclass(frozen=True)
class Entity:
    """Something that facts are about. `spoken` has its article ("the Netherlands")."""

    kind: str
    name: str
    spoken: str
    values: dict[str, str]
    """Relation -> value as it is spoken; a relation without a value is absent."""
    mentions: tuple[str, ...]
    """Names of other entities that occur in the values."""


@dataclass(frozen=True)
class Fact:
    """One value of one entity and the sentence that states it."""

    kind: str
    entity: str
    relation: str
    value: str
    sentence: str


_SENTENCES: dict[tuple[str, str], str] = {
    ("country", "capital"): "The capital of {e} is {v}.",
    ("country", "currency"): "The currency of {e} is the {v}.",
    ("country", "continent"): "{E} is in {v}.",
    ("country", "language"): "The main language of {e} is {v}.",
    ("country", "population"): "About {v} people live in {e}.",
    ("country", "neighbours"): "The neighbours of {e} are {v}.",
    ("element", "symbol"): "The symbol of {e} is {v}.",
    ("element", "number"): "The atomic number of {e} is {v}.",
    ("element", "category"): "{E} is {v}.",
    ("element", "state"): "At room temperature {e} is a {v}.",
    ("element", "discovered"): "{E} was discovered in {v}.",
}


def state_fact(entity: Entity, relation: str) -> Fact | None:
    """The fact of an entity in its plainest wording, or None where the book has no value."""
    if relation == "neighbours" and entity.values.get(relation) == "":
        sentence = f"{capitalise(entity.spoken)} has no neighbours by land."
        return Fact(entity.kind, entity.name, relation, "none", sentence)
    value = entity.values.get(relation)
    if not value:
        return None
    template = _SENTENCES[entity.kind, relation]
    if relation == "neighbours" and len(entity.mentions) == 1:
        template = "The only neighbour of {e} is {v}."
    elif relation == "discovered" and value == ANCIENT:
        template = "{E} has been known since ancient times."
    sentence = template.format(e=entity.spoken, E=capitalise(entity.spoken), v=value)
    return Fact(entity.kind, entity.name, relation, value, sentence)


def capitalise(text: str) -> str:
    """First letter in upper case, the rest untouched."""
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class FactBook:
    """All countries and elements, in file order."""

    countries: tuple[Entity, ...]
    elements: tuple[Entity, ...]

    def entity(self, name: str) -> Entity:
        for entity in self.countries + self.elements:
            if entity.name == name:
                return entity
        raise KeyError(name)

    def facts(self) -> Iterator[Fact]:
        for entity in self.countries + self.elements:
            relations = COUNTRY_RELATIONS if entity.kind == "country" else ELEMENT_RELATIONS
            for relation in relations:
                if fact := state_fact(entity, relation):
                    yield fact

    def markdown(self) -> str:
        """The whole book as headings and sentences, one fact a line."""
        lines = ["# Fact book"]
        heading = ""
        for fact in self.facts():
            if fact.entity != heading:
                heading = fact.entity
                lines += ["", f"## {capitalise(heading)}", ""]
            lines.append(f"- {fact.sentence}")
        return "\n".join(lines) + "\n"


def load_fact_book(folder: Path = BUNDLED_FACT_BOOK) -> FactBook:
    """Read `countries.csv` and `elements.csv` of a folder."""
    countries = _read(folder / "countries.csv", _COUNTRY_COLUMNS, _country)
    elements = _read(folder / "elements.csv", _ELEMENT_COLUMNS, _element)
    spoken = {country.name: country.spoken for country in countries}
    for country in countries:
        if unknown := set(country.mentions) - set(spoken):
            raise FactBookError(
                f"{folder / 'countries.csv'}: {country.name} has an unknown neighbour: "
                f"{', '.join(sorted(unknown))}"
            )
        country.values["neighbours"] = _say_neighbours([spoken[n] for n in country.mentions])
    return FactBook(countries, elements)


@cache
def bundled_fact_book() -> FactBook:
    return load_fact_book()


def _read(
    path: Path, columns: tuple[str, ...], build: Callable[[dict[str, str]], Entity]
) -> tuple[Entity, ...]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise FactBookError(f"{path}: column missing: {', '.join(missing)}")
            entities = []
            for row in reader:
                try:
                    entities.append(build({key: (row[key] or "").strip() for key in columns}))
                except ValueError as error:
                    raise FactBookError(f"{path}, line {reader.line_num}: {error}") from error
    except FileNotFoundError as error:
        raise FactBookError(f"{path}: no such file") from error
    names = [entity.name for entity in entities]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FactBookError(f"{path}: listed twice: {', '.join(twice)}")
    return tuple(entities)


def _required(row: dict[str, str], *names: str) -> None:
    for name in names:
        if not row[name]:
            raise ValueError(f"{name} is empty")


def _whole(row: dict[str, str], name: str) -> int:
    try:
        return int(row[name])
    except ValueError:
        raise ValueError(f"{name} must be a whole number, not {row[name]!r}") from None


def _country(row: dict[str, str]) -> Entity:
    _required(row, "name", "capital", "currency", "continent", "language", "population")
    neighbours = [name.strip() for name in row["neighbours"].split(";") if name.strip()]
    values = {name: row[name] for name in ("capital", "currency", "continent", "language")}
    values["population"] = say_rounded(_whole(row, "population"))
    spoken = f"{row['article']} {row['name']}".strip()
    return Entity("country", row["name"], spoken, values, tuple(neighbours))


def _say_neighbours(names: list[str]) -> str:
    if len(names) <= _NAMED_NEIGHBOURS:
        return join_list(names)
    others = len(names) - _NAMED_NEIGHBOURS + 1
    return join_list([*names[: _NAMED_NEIGHBOURS - 1], f"{say_integer(others)} others"])


def _element(row: dict[str, str]) -> Entity:
    _required(row, "name", "symbol", "category", "discovered")
    if row["state"] not in _STATES:
        raise ValueError(f"state must be solid, liquid, gas or empty, not {row['state']!r}")
    found = row["discovered"]
    category = row["category"].replace("-", " ")
    values = {
        "symbol": spell(row["symbol"]),
        "number": say_integer(_whole(row, "number")),
        "category": f"{'an' if category[0] in 'aeiou' else 'a'} {category}",
        "discovered": ANCIENT if found == ANCIENT else say_year(_whole(row, "discovered")),
    }
    if row["state"]:
        values["state"] = row["state"]
    return Entity("element", row["name"], row["name"], values, ())


if __name__ == "__main__":
    (BUNDLED_FACT_BOOK / "facts.md").write_text(bundled_fact_book().markdown(), encoding="utf-8")
