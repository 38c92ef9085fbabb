"""One immutable piece of an index: passages, their postings, and tables to find words by likeness.

A segment is a set of flat numpy arrays, in memory when just built and memory-mapped when read from
disk; nothing in it is unpickled. Scoring weights are fixed when a passage is indexed (BM25 with a
fixed length pivot, so they do not change when segments are merged); only the rarity of a term is
computed at search time, over all segments.

Layout on disk, one file an array: texts as UTF-8 with offsets, passages -> (document, heading,
place), terms ordered by hash with the word each was first seen as, postings by term (passage,
quantised weight), and, to find words by likeness, the terms that have each trigram of letters and
the terms whose sound key has each code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duologue.errors import DuologueError
from duologue.retrieval.knowledge.analysis import (
    GRAM_SPACE,
    grams_of,
    is_fuzzy,
    term_of,
    words_of,
)
from duologue.retrieval.knowledge.passages import Passage, PlaceKind
from duologue.retrieval.knowledge.phonetics import sound_codes, sound_key

Array = NDArray[Any]

SATURATION = 1.2
LENGTH_WEIGHT = 0.6
PIVOT_WORDS = 40
HEADING_WEIGHT = 0.6
IMPACT_SCALE = 255 / (SATURATION + 1)
FORMAT_VERSION = 1


class IndexCorrupt(DuologueError, RuntimeError):
    """A file of an index is missing, of the wrong kind, or disagrees with the others."""


@dataclass(frozen=True, slots=True)
class Document:
    """One indexed file. `path` identifies it, `name` is what a citation shows."""

    path: str
    name: str
    digest: str
    size: int
    modified_ns: int
    passages: int


class Strings:
    """A read-only list of strings in two arrays: UTF-8 bytes, and where each string starts."""

    def __init__(self, data: Array, offsets: Array) -> None:
        self.data = data
        self.offsets = offsets

    @classmethod
    def of(cls, strings: Iterable[str]) -> Strings:
        encoded = [text.encode("utf-8", "replace") for text in strings]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        return self.data[start:end].tobytes().decode("utf-8", "replace")

    def take(self, indexes: Array) -> Strings:
        """The strings at `indexes`, copied."""
        starts, ends = self.offsets[indexes], self.offsets[np.asarray(indexes) + 1]
        lengths = np.asarray(ends - starts, np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        source = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Strings(np.asarray(self.data)[source], offsets)

    @staticmethod
    def joined(parts: Sequence[Strings]) -> Strings:
        sizes = [int(part.offsets[-1]) for part in parts]
        bases = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        offsets = [part.offsets[:-1] + base for part, base in zip(parts, bases, strict=False)]
        return Strings(
            np.concatenate([np.asarray(part.data) for part in parts]),
            np.concatenate([*offsets, bases[-1:]]).astype(np.int64),
        )


@dataclass(frozen=True)
class Segment:
    """See the module. P passages, T terms, N postings, D documents."""

    documents: tuple[Document, ...]
    texts: Strings  # P
    headings: Strings  # distinct headings; number 0 is ""
    passage_document: Array  # uint32 [P]
    passage_heading: Array  # uint32 [P]
    passage_place: Array  # uint32 [P], line, row or page number; 0 = none
    passage_kind: Array  # uint8 [P], PlaceKind
    term_hashes: Array  # uint64 [T], ascending
    term_words: Strings  # T, the word first seen for the term
    posting_starts: Array  # int64 [T + 1]
    posting_passages: Array  # uint32 [N]
    posting_impacts: Array  # uint8 [N], weight * IMPACT_SCALE
    gram_starts: Array  # int64 [GRAM_SPACE + 1]
    gram_terms: Array  # uint32
    gram_counts: Array  # uint8 [T], trigrams that a term has; 0 = found by its exact form only
    sound_codes: Array  # uint64, ascending; see phonetics.sound_codes
    sound_terms: Array  # uint32
    vectors: Array | None = None  # float16 [P, width]

    @property
    def passages(self) -> int:
        return len(self.texts)

    def with_vectors(self, vectors: Array) -> Segment:
        """The same segment with one vector a passage."""
        return replace(self, vectors=vectors)

    def find_term(self, term_hash: int) -> int:
        """Number of a term, -1 if absent."""
        index = int(np.searchsorted(self.term_hashes, np.uint64(term_hash)))
        if index < len(self.term_hashes) and int(self.term_hashes[index]) == term_hash:
            return index
        return -1

    def document_frequency(self, term: int) -> int:
        return int(self.posting_starts[term + 1] - self.posting_starts[term])


_ARRAYS = (
    "passage_document", "passage_heading", "passage_place", "passage_kind", "term_hashes",
    "posting_starts", "posting_passages", "posting_impacts", "gram_starts", "gram_terms",
    "gram_counts", "sound_codes", "sound_terms",
)  # fmt: skip
_STRINGS = ("texts", "headings", "term_words")


@lru_cache(maxsize=1 << 16)
def hash_term(term: str) -> int:
    """64 bits that identify a term; two of a million terms share them with odds of 3e-8."""
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little")


class SegmentBuilder:
    """Collects documents in memory and turns them into a segment."""

    def __init__(self) -> None:
        self._documents: list[Document] = []
        self._texts: list[str] = []
        self._headings: dict[str, int] = {"": 0}
        self._rows: list[tuple[int, int, int, int]] = []
        self._terms: dict[str, int] = {}
        self._words: list[str] = []
        self._word_terms: dict[str, int] = {}
        self._tokens: list[int] = []
        self._heading_tokens: dict[int, list[int]] = {}
        self._body_lengths: list[int] = []

    @property
    def passages(self) -> int:
        return len(self._texts)

    @property
    def documents(self) -> int:
        return len(self._documents)

    def add(self, document: Document, passages: Sequence[Passage]) -> None:
        number = len(self._documents)
        self._documents.append(document)
        for passage in passages:
            heading = self._headings.setdefault(passage.heading, len(self._headings))
            if heading not in self._heading_tokens:
                self._heading_tokens[heading] = self._tokenise(passage.heading)
            tokens = self._tokenise(passage.text)
            self._texts.append(passage.text)
            self._rows.append((number, heading, passage.place, int(passage.kind)))
            self._tokens.extend(tokens)
            self._body_lengths.append(len(tokens))

    def build(self) -> Segment:
        """The segment of everything added so far."""
        rows = np.array(self._rows, np.int64).reshape(-1, 4)
        hashes = np.fromiter(map(hash_term, self._terms), np.uint64, len(self._terms))
        order = np.argsort(hashes)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        words = [self._words[i] for i in order]

        passages, terms, counts, lengths = self._frequencies(rows[:, 1])
        terms = rank[terms] if len(terms) else terms
        by_term = np.argsort(terms, kind="stable")
        passages, terms, counts = passages[by_term], terms[by_term], counts[by_term]
        norm = 1 - LENGTH_WEIGHT + LENGTH_WEIGHT * lengths[passages] / PIVOT_WORDS
        impacts = counts * (SATURATION + 1) / (counts + SATURATION * norm)
        return Segment(
            documents=tuple(self._documents),
            texts=Strings.of(self._texts),
            headings=Strings.of(self._headings),
            passage_document=rows[:, 0].astype(np.uint32),
            passage_heading=rows[:, 1].astype(np.uint32),
            passage_place=rows[:, 2].astype(np.uint32),
            passage_kind=rows[:, 3].astype(np.uint8),
            term_hashes=hashes[order],
            term_words=Strings.of(words),
            posting_starts=np.searchsorted(terms, np.arange(len(order) + 1)).astype(np.int64),
            posting_passages=passages.astype(np.uint32),
            posting_impacts=np.clip(np.rint(impacts * IMPACT_SCALE), 1, 255).astype(np.uint8),
            **_likeness_tables(words),
        )

    def _tokenise(self, text: str) -> list[int]:
        """Term numbers of a text; words seen before cost one dictionary look-up."""
        known = self._word_terms
        tokens: list[int] = []
        for word in words_of(text):
            term = known.get(word)
            if term is None:
                term = known[word] = self._number_of(word)
            if term >= 0:
                tokens.append(term)
        return tokens

    def _number_of(self, word: str) -> int:
        term = term_of(word)
        if not term:
            return -1
        number = self._terms.get(term)
        if number is None:
            number = self._terms[term] = len(self._terms)
            self._words.append(word.removesuffix("'s"))
        return number

    def _frequencies(self, passage_heading: Array) -> tuple[Array, Array, Array, Array]:
        """(passage, term, weighted count) of each pair that occurs, and each passage's length."""
        count = len(self._texts)
        body = np.array(self._tokens, np.int64)
        body_lengths = np.array(self._body_lengths, np.int64)
        body_passage = np.repeat(np.arange(count), body_lengths)
        heading_lengths = np.array(
            [len(self._heading_tokens.get(h, ())) for h in range(len(self._headings))], np.int64
        )
        heads = [self._heading_tokens.get(int(h), []) for h in passage_heading]
        head = np.array([token for tokens in heads for token in tokens], np.int64)
        head_passage = np.repeat(np.arange(count), heading_lengths[passage_heading])
        width = max(1, len(self._terms))
        keys = np.concatenate([body_passage * width + body, head_passage * width + head])
        weights = np.concatenate(
            [np.ones(len(body), np.float32), np.full(len(head), HEADING_WEIGHT, np.float32)]
        )
        pairs, where = np.unique(keys, return_inverse=True)
        counts = np.bincount(where, weights, minlength=len(pairs))
        lengths = body_lengths + HEADING_WEIGHT * heading_lengths[passage_heading]
        return pairs // width, pairs % width, counts, lengths


def _likeness_tables(words: Sequence[str]) -> dict[str, Array]:
    grams: list[int] = []
    gram_owners: list[int] = []
    codes: list[int] = []
    code_owners: list[int] = []
    counts = np.zeros(len(words), np.uint8)
    for number, word in enumerate(words):
        if not is_fuzzy(word):
            continue
        letters = grams_of(word)
        counts[number] = len(letters)
        grams += letters
        gram_owners += [number] * len(letters)
        sounds = sound_codes(sound_key(word))
        codes += sounds
        code_owners += [number] * len(sounds)
    return {
        **_gram_index(np.array(grams, np.int64), np.array(gram_owners, np.int64)),
        **_sound_index(np.array(codes, np.uint64), np.array(code_owners, np.int64)),
        "gram_counts": counts,
    }


def _gram_index(codes: Array, owners: Array) -> dict[str, Array]:
    order = np.lexsort((owners, codes))
    starts = np.searchsorted(codes[order], np.arange(GRAM_SPACE + 1))
    return {
        "gram_starts": starts.astype(np.int64),
        "gram_terms": owners[order].astype(np.uint32),
    }


def _sound_index(codes: Array, owners: Array) -> dict[str, Array]:
    order = np.lexsort((owners, codes))
    return {"sound_codes": codes[order], "sound_terms": owners[order].astype(np.uint32)}


def merge(segments: Sequence[Segment], deleted: Sequence[Array | None]) -> Segment:
    """One segment with the documents of several, less the deleted ones (bool [D] per segment).

    Takes about 100 bytes of memory a posting while it runs.
    """
    keep_documents = [
        np.ones(len(s.documents), bool) if gone is None else ~gone
        for s, gone in zip(segments, deleted, strict=True)
    ]
    keep = [flags[s.passage_document] for s, flags in zip(segments, keep_documents, strict=True)]
    hashes = np.unique(np.concatenate([s.term_hashes for s in segments]))
    columns: list[tuple[Array, Array, Array]] = []
    base = 0
    for segment, kept in zip(segments, keep, strict=True):
        new_passage = np.cumsum(kept) - 1 + base
        base += int(kept.sum())
        new_term = np.searchsorted(hashes, segment.term_hashes)
        terms = np.repeat(new_term, np.diff(segment.posting_starts))
        alive = kept[segment.posting_passages]
        columns.append(
            (
                terms[alive],
                new_passage[segment.posting_passages[alive]],
                segment.posting_impacts[alive],
            )
        )
    terms, passages, impacts = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    used, terms = np.unique(terms, return_inverse=True)
    hashes = hashes[used]
    order = np.argsort(terms, kind="stable")

    first = _first_owner(hashes, [s.term_hashes for s in segments])
    words = Strings.joined([s.term_words for s in segments]).take(first)
    counts = np.concatenate([np.asarray(s.gram_counts) for s in segments])[first]
    heading_base = np.cumsum([0, *(len(s.headings) for s in segments)])
    document_base = np.cumsum([0, *(int(flags.sum()) for flags in keep_documents)])
    vectors = [s.vectors for s in segments]
    same_width = len({None if v is None else v.shape[1] for v in vectors}) == 1
    return Segment(
        documents=tuple(
            document
            for segment, flags in zip(segments, keep_documents, strict=True)
            for document, kept in zip(segment.documents, flags, strict=True)
            if kept
        ),
        texts=Strings.joined(
            [s.texts.take(np.flatnonzero(k)) for s, k in zip(segments, keep, strict=True)]
        ),
        headings=Strings.joined([s.headings for s in segments]),
        passage_document=np.concatenate(
            [
                (np.cumsum(flags) - 1 + start)[s.passage_document[k]]
                for s, flags, k, start in zip(
                    segments, keep_documents, keep, document_base, strict=False
                )
            ]
        ).astype(np.uint32),
        passage_heading=np.concatenate(
            [
                s.passage_heading[k] + b
                for s, k, b in zip(segments, keep, heading_base, strict=False)
            ]
        ).astype(np.uint32),
        passage_place=np.concatenate(
            [s.passage_place[k] for s, k in zip(segments, keep, strict=True)]
        ),
        passage_kind=np.concatenate(
            [s.passage_kind[k] for s, k in zip(segments, keep, strict=True)]
        ),
        term_hashes=hashes,
        term_words=words,
        posting_starts=np.searchsorted(terms[order], np.arange(len(hashes) + 1)).astype(np.int64),
        posting_passages=passages[order].astype(np.uint32),
        posting_impacts=impacts[order],
        gram_counts=counts,
        **_merge_likeness(segments, hashes),
        vectors=(
            np.concatenate([v[k] for v, k in zip(vectors, keep, strict=True) if v is not None])
            if same_width and vectors[0] is not None
            else None
        ),
    )


def _first_owner(hashes: Array, parts: Sequence[Array]) -> Array:
    """Position of each hash's first occurrence in the concatenation of `parts`."""
    everything = np.concatenate(parts)
    order = np.argsort(everything, kind="stable")
    return order[np.searchsorted(everything[order], hashes)]


def _merge_likeness(segments: Sequence[Segment], hashes: Array) -> dict[str, Array]:
    """A term's trigrams and sounds come from the segment that had it first, as its word does."""
    first = _first_owner(hashes, [s.term_hashes for s in segments])
    new_of_old = np.full(sum(len(s.term_hashes) for s in segments), -1, np.int64)
    new_of_old[first] = np.arange(len(hashes))
    grams: list[tuple[Array, Array]] = []
    sounds: list[tuple[Array, Array]] = []
    base = 0
    for segment in segments:
        codes = np.repeat(np.arange(GRAM_SPACE), np.diff(segment.gram_starts))
        owners = new_of_old[segment.gram_terms.astype(np.int64) + base]
        grams.append((codes[owners >= 0], owners[owners >= 0]))
        owners = new_of_old[segment.sound_terms.astype(np.int64) + base]
        sounds.append((segment.sound_codes[owners >= 0], owners[owners >= 0]))
        base += len(segment.term_hashes)
    return {
        **_gram_index(*map(np.concatenate, zip(*grams, strict=True))),
        **_sound_index(*map(np.concatenate, zip(*sounds, strict=True))),
    }


def write_segment(segment: Segment, folder: Path) -> None:
    """Write a segment into a new folder and make it durable."""
    folder.mkdir(parents=True)
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", getattr(segment, name), allow_pickle=False)
    for name in _STRINGS:
        strings: Strings = getattr(segment, name)
        np.save(folder / f"{name}.npy", strings.data, allow_pickle=False)
        np.save(folder / f"{name}_starts.npy", strings.offsets, allow_pickle=False)
    if segment.vectors is not None:
        np.save(folder / "vectors.npy", segment.vectors, allow_pickle=False)
    description = {
        "format": FORMAT_VERSION,
        "passages": segment.passages,
        "terms": len(segment.term_hashes),
        "postings": len(segment.posting_passages),
        "vectors": segment.vectors is not None,
        "documents": [asdict(document) for document in segment.documents],
    }
    (folder / "segment.json").write_text(json.dumps(description), encoding="utf-8")
    for path in folder.iterdir():
        sync(path)
    sync(folder)


def read_segment(folder: Path) -> Segment:
    """Open a segment without reading its arrays; IndexCorrupt names what is wrong."""
    try:
        description = json.loads((folder / "segment.json").read_text(encoding="utf-8"))
        documents = tuple(Document(**entry) for entry in description["documents"])
        expected = {
            "passage_document": description["passages"],
            "texts_starts": description["passages"] + 1,
            "term_hashes": description["terms"],
            "posting_starts": description["terms"] + 1,
            "posting_passages": description["postings"],
            "posting_impacts": description["postings"],
            "gram_starts": GRAM_SPACE + 1,
            "gram_counts": description["terms"],
        }
        version, has_vectors = description["format"], description["vectors"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IndexCorrupt(f"{folder / 'segment.json'}: {error}") from error
    if version != FORMAT_VERSION:
        raise IndexCorrupt(f"{folder}: index format {version}, this program reads {FORMAT_VERSION}")

    def load(name: str) -> Array:
        path = folder / f"{name}.npy"
        try:
            # An empty file cannot be mapped; np.load maps everything else without reading it.
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise IndexCorrupt(f"{path}: {error}") from error
        if name in expected and len(array) != expected[name]:
            raise IndexCorrupt(f"{path}: {len(array)} entries, expected {expected[name]}")
        return np.asarray(array)

    arrays = {name: load(name) for name in _ARRAYS}
    strings = {name: Strings(load(name), load(f"{name}_starts")) for name in _STRINGS}
    return Segment(
        documents=documents,
        vectors=load("vectors") if has_vectors else None,
        texts=strings["texts"],
        headings=strings["headings"],
        term_words=strings["term_words"],
        **arrays,
    )


def sync(path: Path) -> None:
    """Make a file or folder durable where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # folders cannot be opened on Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


__all__ = [
    "Document",
    "IndexCorrupt",
    "PlaceKind",
    "Segment",
    "SegmentBuilder",
    "Strings",
    "merge",
    "read_segment",
    "write_segment",
]
