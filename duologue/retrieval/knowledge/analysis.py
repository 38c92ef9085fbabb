"""Turn text into the terms that are indexed and searched.

A *word* is what the text has, lower case and without accents; a *term* is what words with the same
stem share. Number words count as their digits on both sides, so "twelve" finds "12". Text in
scripts without spaces between words is cut into pairs of characters.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from duologue.retrieval.numbers import NUMBER_WORDS, find_numbers, parse_number, split_words

MAX_WORD_CHARS = 40
GRAM_SPACE = 1 << 15

STOP_WORDS = frozenset(
    """
        a about actually again all also am an and any anybody anyone anything are aren't as at
        be been being but by can can't cannot could couldn't did didn't do does doesn't doing
        don't else er ever for from get give go going gonna got had has hasn't have haven't
        having he hello her here hers hey hi him his hm how i i'd i'll i'm i've if in into is
        isn't it it'd it'll it's its just kind know kindly let let's like little look lot may
        maybe me might mine more most much must my need no not now of off oh ok okay on one's or
        our ours out over please quite really right say she should so some somebody someone
        something sort sorry such sure tell than thank thanks that that's the their theirs them
        then there there's these they they're thing things think this those though to too um uh
        up us very want wanna was wasn't we we're well were weren't what what's whats when
        when's where where's wheres which who who's whos whom whose why will with wonder
        wondering won't would wouldn't yeah yes yet you you're your yours
    """.split()  # noqa: SIM905
)
"""Words that say nothing about the subject of a question, among them the fillers of speech."""

_SYNONYMS = (
    "cost price fee charge",
    "tall height high",
    "long length",
    "wide width",
    "deep depth",
    "old age founded built",
    "big large size",
    "found founded established created started",
    "built constructed erected",
    "invented inventor invention",
    "wrote written author",
    "located location situated address",
    "close closing shut",
    "begin start beginning starting",
    "end finish ending",
    "buy purchase",
    "phone telephone call",
    "kids children child",
    "film movie",
    "doctor physician",
    "shop store",
    "job occupation profession",
    "boss director head chief",
    "hours times open opening",
    "inhabitants population people",
    "died death",
    "born birth",
)
"""Words that people ask with for words that documents use, English; a line is one group."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W\d_]+)*")
_DECIMAL = re.compile(r"(?<=\d)[.,](?=\d)")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+")
_VOWELS = frozenset("aeiouy")


def fold(text: str) -> str:
    """Lower case, without accents, with one form for what looks the same."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(char for char in decomposed if not unicodedata.combining(char))
        text = text.replace("\u2019", "'")
    return text.casefold()


def words_of(text: str) -> list[str]:
    """The words of a text in order, repeated ones and stop words included."""
    text = fold(text)
    if "." in text or "," in text:
        text = _DECIMAL.sub("", text)
    words = _WORD.findall(text)
    if text.isascii():
        return words
    spaced: list[str] = []
    for word in words:
        if _UNSPACED.search(word):
            spaced.extend(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        else:
            spaced.append(word)
    return spaced


@lru_cache(maxsize=1 << 16)
def term_of(word: str) -> str:
    """The term a word stands for; "" for stop words."""
    if word in STOP_WORDS:
        return ""
    word = word.removesuffix("'s").replace("'", "")[:MAX_WORD_CHARS]
    if word in STOP_WORDS or (len(word) == 1 and not word.isdigit()):
        return ""
    if word[:1].isdigit():
        return re.sub(r"(?<=\d)(?:st|nd|rd|th)$", "", word)
    if digits := _number_words().get(word):
        return digits
    return stem(word)


def stem(word: str) -> str:
    """English endings off: plurals, -ed, -ing, -ly, a silent e. The result need not be a word."""
    if len(word) <= 3 or not word.isascii():
        return word
    if word.endswith("ies"):
        word = word[:-3] + ("y" if len(word) > 4 else "ie")
    elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
        word = word[:-2]
    elif word.endswith("s") and word[-2] not in "sui":
        word = word[:-1]
    for ending in ("ing", "ed"):
        base = word[: -len(ending)]
        if word.endswith(ending) and len(base) >= 3 and base[-1] != "e" and _VOWELS & set(base):
            if len(base) > 3 and base[-1] == base[-2] and base[-1] not in "lsz":
                base = base[:-1]
            word = base
            break
    if word.endswith("ly") and len(word) > 5:
        word = word[:-2]
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    if word.endswith("y") and len(word) > 3 and word[-2] not in _VOWELS:
        word = word[:-1] + "i"
    return word


@lru_cache(maxsize=1)
def _synonym_terms() -> dict[str, frozenset[str]]:
    groups: dict[str, set[str]] = {}
    for line in _SYNONYMS:
        terms = {term_of(word) for word in line.split()}
        for term in terms:
            groups.setdefault(term, set()).update(terms - {term})
    return {term: frozenset(others) for term, others in groups.items()}


def synonyms_of(term: str) -> frozenset[str]:
    """Terms that may be meant with this one."""
    return _synonym_terms().get(term, frozenset())


def question_words(text: str) -> list[str]:
    """Words of a question with spoken numbers of several words said once more as digits."""
    words = words_of(text)
    spoken = split_words(fold(text))
    for number in find_numbers(spoken):
        if number.end - number.start > 1 and number.value == int(number.value):
            words.append(str(int(number.value)))
    return words


def grams_of(word: str) -> list[int]:
    """Codes of the distinct trigrams of a word's letters, edges marked; below `GRAM_SPACE`."""
    codes = [30, *map(_letter_code, word), 31]
    return list(
        dict.fromkeys(
            a << 10 | b << 5 | c for a, b, c in zip(codes, codes[1:], codes[2:], strict=False)
        )
    )


def is_fuzzy(word: str) -> bool:
    """Whether a word may be matched by its looks and sound: long enough, and no number."""
    return len(word) >= 3 and not any(char.isdigit() for char in word)


def _letter_code(char: str) -> int:
    code = ord(char) - 97
    return code if 0 <= code < 26 else 26 + ord(char) % 4


@lru_cache(maxsize=1)
def _number_words() -> dict[str, str]:
    values = {word: parse_number(word) for word in NUMBER_WORDS - {"point", "oh"}}
    return {word: str(int(value)) for word, value in values.items() if value is not None}
