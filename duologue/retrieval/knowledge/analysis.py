"""Turn text into the terms that are indexed and searched.

A *word* is what the text has, lower case and without accents; a *term* is what words with the same
stem share. Number words count as their digits on both sides, so "twelve" finds "12". Text in
scripts without spaces between words is cut into pairs of characters.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from duologue.numbers import NUMBER_WORDS, find_numbers, parse_number, split_words
from duologue.retrieval.knowledge.phonetics import sound_key
from duologue.retrieval.knowledge.wordlists import (
    ASKING_WORDS,
    GENERIC_WORDS,
    MEMBERS,
    STOP_WORDS,
    SYNONYMS,
)

MAX_WORD_CHARS = 40
GRAM_SPACE = 1 << 15
MAX_FILLER_CHARS = 4
MAX_FILLER_SOUNDS = 2

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
    for line in SYNONYMS:
        terms = {term_of(word) for word in line.split()}
        for term in terms:
            groups.setdefault(term, set()).update(terms - {term})
    for kinds, members in MEMBERS.items():
        terms = {term_of(word) for word in members.split()} - {""}
        for kind in kinds.split():
            groups.setdefault(term_of(kind), set()).update(terms)
    return {term: frozenset(others) for term, others in groups.items()}


def synonyms_of(term: str) -> frozenset[str]:
    """Terms that may be meant with this one."""
    return _synonym_terms().get(term, frozenset())


@lru_cache(maxsize=1)
def _generic_terms() -> frozenset[str]:
    return frozenset({term_of(word) for word in GENERIC_WORDS} - {""})


def is_generic(term: str) -> bool:
    """Whether a term tells little about what a question is about, however rare in the index."""
    return term in _generic_terms()


@lru_cache(maxsize=1)
def _asking_terms() -> frozenset[str]:
    return frozenset({term_of(word) for word in ASKING_WORDS} - {""})


def is_asking(term: str) -> bool:
    """Whether a term belongs to the asking ("remind", "please") and not to what is asked."""
    return term in _asking_terms()


@lru_cache(maxsize=1)
def _sounds_of_fillers() -> frozenset[str]:
    keys = {sound_key(word.partition("'")[0]) for word in STOP_WORDS}
    return frozenset(key for key in keys if 0 < len(key) <= MAX_FILLER_SOUNDS)


def sounds_like_filler(word: str) -> bool:
    """Whether a word that nothing knows may be a stop word heard wrong: "ov", "iz", "dhe"."""
    return len(word) <= MAX_FILLER_CHARS and sound_key(word) in _sounds_of_fillers()


def question_words(text: str) -> list[str]:
    """Words of a question with spoken numbers of several words said once more as digits."""
    words = words_of(text)
    spoken = split_words(fold(text))
    for number in find_numbers(spoken):
        if number.end - number.start > 1 and number.value == int(number.value):
            words.append(str(int(number.value)))
    return words


@lru_cache(maxsize=1 << 15)
def grams_of(word: str) -> tuple[int, ...]:
    """Codes of the distinct trigrams of a word's letters, edges marked; below `GRAM_SPACE`."""
    codes = [30, *map(_letter_code, word), 31]
    return tuple(
        dict.fromkeys(
            a << 10 | b << 5 | c for a, b, c in zip(codes, codes[1:], codes[2:], strict=False)
        )
    )


def is_fuzzy(word: str) -> bool:
    """Whether a word may be matched by its looks and sound: long enough, and no number."""
    return len(word) >= 3 and (word.isalpha() or not any(map(str.isdigit, word)))


def _letter_code(char: str) -> int:
    code = ord(char) - 97
    return code if 0 <= code < 26 else 26 + ord(char) % 4


@lru_cache(maxsize=1)
def _number_words() -> dict[str, str]:
    values = {word: parse_number(word) for word in NUMBER_WORDS - {"point", "oh"}}
    return {word: str(int(value)) for word, value in values.items() if value is not None}
