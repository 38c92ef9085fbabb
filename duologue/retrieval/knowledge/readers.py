"""Read files of many kinds into blocks of plain text with a place to cite.

| kind | a block is | its place |
| --- | --- | --- |
| txt, md | paragraph, list item, table row; a line where every line is a sentence | line |
| csv, tsv | row, as one sentence a column: "The price of X is 4." | row (the header is row 1) |
| jsonl | object: its text fields, or sentences as for a row | line |
| html | paragraph, list item, table row | line |
| docx | paragraph, table row | none |
| pdf | paragraph | page |

PDF needs the `pdf` extra. Files are not trusted: size, nesting and expansion are bounded, nothing
is executed or fetched, and what cannot be read raises `UnreadableFile` with the reason.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from itertools import chain, islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from duologue.errors import DuologueError
from duologue.retrieval.clauses import ends_sentence
from duologue.retrieval.knowledge.passages import Block, PlaceKind

MAX_FILE_BYTES = 256 << 20
MAX_DOCUMENT_XML_BYTES = 128 << 20
MAX_LINE_CHARS = 1 << 20
MAX_MARKED_CHARS = 20_000
"""Longer lines are taken as they are, marks and all."""
MAX_COLUMNS = 64
MAX_PAGES = 10_000
MAX_CELL_CHARS = 2_000
MAX_FRONT_MATTER_LINES = 200
"""A leading `---` whose end is further away is a rule, and nothing is left out."""
SAMPLED_ROWS = 50
MAX_LEAD_IN_WORDS = 12

_DAMAGE = (
    OSError, EOFError, ValueError, OverflowError, RuntimeError, AssertionError, struct.error,
    csv.Error, zipfile.BadZipFile, zlib.error, ElementTree.ParseError,
)  # fmt: skip
"""What the standard library raises at broken or hostile files: `html.parser` fails an assertion at
a declaration that it does not know, `zipfile` has a RuntimeError for what it cannot unpack."""
_TITLE_KEYS = ("question", "title", "heading", "name", "topic", "subject")
_TEXT_KEYS = ("answer", "text", "content", "contents", "body", "passage", "summary", "description")
_SUBJECT_NAMES = frozenset({"name", "title", "item", "product", "term", "subject", "topic", "key"})


class UnreadableFile(DuologueError, ValueError):
    """A file that cannot be indexed, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path.name}: {reason}")
        self.path = path
        self.reason = reason


def is_readable(path: Path) -> bool:
    """Whether the file's suffix is one of those known."""
    return path.suffix.lower() in READERS


def read_blocks(path: Path) -> Iterator[Block]:
    """The blocks of one file, in order; raises UnreadableFile, also half way."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UnreadableFile(path, f"unknown kind {path.suffix or '(no suffix)'}")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UnreadableFile(path, f"{size >> 20} MiB, at most {MAX_FILE_BYTES >> 20} are read")
        yield from reader(path)
    except UnreadableFile:
        raise
    except _DAMAGE as error:
        raise UnreadableFile(path, str(error) or type(error).__name__) from error


# -- text


def _read_text(path: Path) -> Iterator[Block]:
    return _text_blocks(_lines(path), markdown=False)


def _read_markdown(path: Path) -> Iterator[Block]:
    return _text_blocks(_lines(path), markdown=True)


def _lines(path: Path) -> Iterator[str]:
    """Lines without their ends: UTF-16 if so marked, else UTF-8, else Windows-1252."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in head:
        raise UnreadableFile(path, "binary data")
    else:
        encoding = "utf-8-sig"
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head, final=False)
        except UnicodeDecodeError:
            encoding = "cp1252"
    with path.open(encoding=encoding, errors="replace", newline=None) as text:
        while line := text.readline(MAX_LINE_CHARS):
            yield line.rstrip("\n")


_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_UNDERLINE = re.compile(r"^(=+|-+)\s*$")
_RULE = re.compile(r"^-{3,}$")
_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+(.*)$")
_FENCE = re.compile(r"^\s*(```|~~~)")
_LABELLED = re.compile(r"^[^\s:][^:]{0,60}:\s+\S")


def _text_blocks(lines: Iterable[str], *, markdown: bool) -> Iterator[Block]:
    collector = _Paragraphs()
    in_fence = False
    table: list[str] | None = None
    numbered = enumerate(lines, 1)
    for number, line in _without_front_matter(numbered) if markdown else numbered:
        stripped = line.strip()
        if markdown:
            if in_fence or _FENCE.match(line):
                in_fence = in_fence != bool(_FENCE.match(line))
                collector.close()
                continue
            if heading := _HEADING.match(stripped):
                collector.open_heading(len(heading[1]), plain_markdown(heading[2]))
                continue
            if _UNDERLINE.match(stripped) and len(collector.lines) == 1:
                collector.open_heading(
                    1 if stripped[0] == "=" else 2, plain_markdown(collector.lines.pop()[1])
                )
                continue
            if _RULE.match(stripped):
                collector.close()
                continue
            if stripped.startswith("|") or (table is not None and "|" in stripped):
                cells = _table_cells(stripped)
                if table is None:
                    collector.close()
                    table = cells
                elif not _is_table_rule(stripped):
                    collector.emit(
                        row_sentences(table, cells, _subject_column(table, [cells])), number
                    )
                continue
            table = None
            line = plain_markdown(line)
        if not stripped:
            collector.close()
        elif item := _ITEM.match(line):
            collector.close()
            collector.is_item = True
            collector.lines.append((number, item[1]))
        else:
            if collector.is_lead_in() and not line[:1].islower():
                collector.close()
            collector.lines.append((number, line.strip()))
        yield from collector.take()
    collector.close()
    yield from collector.take()


def _without_front_matter(numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Numbered lines without what a leading `---` opens and `---` or `...` closes."""
    held = list(islice(numbered, 1))
    if held and held[0][1].strip() == "---":
        for number, line in islice(numbered, MAX_FRONT_MATTER_LINES):
            held.append((number, line))
            if line.strip() in ("---", "..."):
                held.clear()
                break
    yield from chain(held, numbered)


class _Paragraphs:
    """Gathers lines into paragraphs under their headings.

    A short line ending in a colon ("Opening hours:") becomes a heading of the list, or of the one
    paragraph, that follows it.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self.is_item = False
        self._headings: list[tuple[int, str]] = []
        self._lead_in = ""
        self._blocks: list[Block] = []

    def take(self) -> list[Block]:
        blocks, self._blocks = self._blocks, []
        return blocks

    def open_heading(self, level: int, text: str) -> None:
        self.close()
        self._lead_in = ""
        self._headings = _under(self._headings, level, text)

    def emit(self, text: str, number: int) -> None:
        heading = " / ".join(filter(None, [*(text for _, text in self._headings), self._lead_in]))
        self._blocks.append(Block(text, number, PlaceKind.LINE, heading))

    def is_lead_in(self) -> bool:
        return self._leads_in(self.lines)

    def _leads_in(self, lines: Sequence[tuple[int, str]]) -> bool:
        if len(lines) != 1 or self.is_item:
            return False
        text = lines[0][1]
        return text.endswith(":") and len(text.split()) <= MAX_LEAD_IN_WORDS

    def close(self) -> None:
        """End the paragraph: one block, or one a line where each line is a statement of its own."""
        lines, self.lines = self.lines, []
        if not lines:
            return
        if self._leads_in(lines):
            self._lead_in = lines[0][1][:-1]
            return
        if len(lines) > 1 and (
            all(ends_sentence(text) for _, text in lines)
            or all(_LABELLED.match(text) for _, text in lines)
        ):
            for number, text in lines:
                self.emit(text, number)
        else:
            joined = "\n".join(text for _, text in lines)
            self.emit(re.sub(r"(?<=\w)-\n(?=[a-z])", "", joined), lines[0][0])
        if not self.is_item:
            self._lead_in = ""
        self.is_item = False


def _under(headings: list[tuple[int, str]], level: int, text: str) -> list[tuple[int, str]]:
    return [(at, above) for at, above in headings if at < level] + [(level, text)]


def plain_markdown(text: str) -> str:
    """A line of Markdown without its marks."""
    if len(text) > MAX_MARKED_CHARS:
        return text
    # Runs are bounded: a pattern that looks for an end that is not there must not look far.
    text = re.sub(r"<!--.{0,1000}?-->|<[^<>]{1,200}>", " ", text)
    text = re.sub(r"!?\[([^\[\]]{0,300})\]\([^()]{0,500}\)", r"\1", text)
    text = re.sub(r"\[([^\[\]]{0,300})\]\[[^\[\]]{0,300}\]", r"\1", text)
    text = re.sub(r"(?<!\w)(\*{1,3}|_{1,3}|`{1,3}|~~)(\S(?:.{0,300}?\S)?)\1(?!\w)", r"\2", text)
    return re.sub(r"\\([\\`*_{}\[\]()#+.!-])", r"\1", text).removeprefix("> ")


def _is_table_rule(line: str) -> bool:
    """Whether a line is the one below a table's head."""
    return "-" in line and not line.strip(" \t:|-")


def _table_cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [plain_markdown(cell.strip()).replace("\\|", "|") for cell in cells[:MAX_COLUMNS]]


# -- tables


def _read_csv(path: Path) -> Iterator[Block]:
    lines = _lines(path)
    sample = list(islice(lines, SAMPLED_ROWS))
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(sample)
    rows = csv.reader((f"{line}\n" for line in chain(sample, lines)), delimiter=delimiter)
    head = [row[:MAX_COLUMNS] for row in islice(rows, SAMPLED_ROWS)]
    if not head:
        return
    header = [_header_name(cell) for cell in head[0]]
    has_header = all(header) and not any(_is_number(cell) for cell in head[0]) and len(head) > 1
    body = head[1:] if has_header else head
    subject = _subject_column(header, body) if has_header else None
    questions = _question_columns(header) if has_header else None
    first = 2 if has_header else 1
    for number, row in enumerate(chain(body, (row[:MAX_COLUMNS] for row in rows)), first):
        cells = [" ".join(cell[:MAX_CELL_CHARS].split()) for cell in row]
        if not any(cells):
            continue
        if questions is not None and max(questions) < len(cells):
            title, text = cells[questions[0]], cells[questions[1]]
            yield Block(text, number, PlaceKind.ROW, title)
        elif has_header:
            yield Block(row_sentences(header, cells, subject), number, PlaceKind.ROW)
        else:
            yield Block(", ".join(filter(None, cells)) + ".", number, PlaceKind.ROW)


def _delimiter(sample: Sequence[str]) -> str:
    """The separator that the first lines have most evenly."""
    counts = {mark: [line.count(mark) for line in sample[:20] if line] for mark in ",;\t|"}
    return max(counts, key=lambda mark: min(counts[mark], default=0) * 100 + sum(counts[mark]))


def _header_name(cell: str) -> str:
    """`unitPrice`, `unit_price` and `Unit Price` -> "unit price"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cell.strip()).replace("_", " ")
    words = [word if word.isupper() and len(word) > 1 else word.lower() for word in spaced.split()]
    return " ".join(words)


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[-+$€£]?[\d.,]+\s?%?", cell.strip()) is not None


def _subject_column(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int | None:
    """The column that says what a row is about: a name, or else the first with distinct words."""
    for index, name in enumerate(header):
        if name.lower().split()[-1:] and name.lower().split()[-1] in _SUBJECT_NAMES:
            return index
    for index in range(len(header)):
        values = [row[index] for row in rows if index < len(row) and row[index].strip()]
        wordy = sum(not _is_number(value) for value in values)
        if values and wordy >= 0.8 * len(values) and len(set(values)) >= 0.8 * len(values):
            return index
    return None


def _question_columns(header: Sequence[str]) -> tuple[int, int] | None:
    names = [name.lower() for name in header]
    if "question" in names and "answer" in names:
        return names.index("question"), names.index("answer")
    return None


def row_sentences(header: Sequence[str], cells: Sequence[str], subject: int | None) -> str:
    """One sentence a column, each of which stands alone: "The price of Espresso is £2."."""
    about = cells[subject].strip() if subject is not None and subject < len(cells) else ""
    sentences: list[str] = []
    for index, (name, cell) in enumerate(zip(header, cells, strict=False)):
        value = cell.strip().rstrip(".")
        if not value or not name or index == subject:
            continue
        name = name[:1].lower() + name[1:] if name[1:2].islower() else name
        if about:
            sentences.append(f"The {name} of {about} is {value}.")
        else:
            sentences.append(f"The {name} is {value}.")
    return " ".join(sentences) or (f"{about}." if about else "")


# -- objects


def _read_jsonl(path: Path) -> Iterator[Block]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UnreadableFile(path, f"line {number} is no JSON: {error}") from error
        heading, text = _object_text(value)
        if text:
            yield Block(text, number, PlaceKind.LINE, heading)


def _object_text(value: Any) -> tuple[str, str]:
    """(heading, text) of one JSON value."""
    if not isinstance(value, Mapping):
        return "", _cell_text(value)
    fields = {str(key): _cell_text(item) for key, item in islice(value.items(), MAX_COLUMNS)}
    lowered = {key.lower(): text for key, text in fields.items() if text}
    title = next((lowered[key] for key in _TITLE_KEYS if key in lowered), "")
    texts = [lowered[key] for key in _TEXT_KEYS if key in lowered]
    if texts:
        return title, " ".join(texts)
    names = [_header_name(key) for key in fields]
    cells = list(fields.values())
    return "", row_sentences(names, cells, _subject_column(names, [cells]))


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return str(value)[: 50 * MAX_CELL_CHARS]
    if isinstance(value, Mapping):
        pairs = islice(value.items(), MAX_COLUMNS)
        return ", ".join(f"{_header_name(str(key))} {_scalar(item)}" for key, item in pairs)
    if isinstance(value, list):
        return ", ".join(_scalar(item) for item in value[:MAX_COLUMNS])
    return ""


def _scalar(value: Any) -> str:
    return str(value)[:MAX_CELL_CHARS] if isinstance(value, str | int | float) else ""


# -- marked-up documents


def _read_html(path: Path) -> Iterator[Block]:
    parser = _HtmlText()
    for line in _lines(path):
        parser.feed(f"{line}\n")
        yield from parser.take()
    parser.close()
    parser.finish()
    yield from parser.take()


class _HtmlText(HTMLParser):
    """Collects blocks from the visible text of a page."""

    _HIDDEN = frozenset({"script", "style", "noscript", "template", "svg", "nav", "head", "button"})
    _BLOCKS = frozenset(
        """
            p div li ul ol dl dt dd section article main aside header footer blockquote pre
            figure figcaption table thead tbody tr form fieldset address h1 h2 h3 h4 h5 h6 br hr
        """.split()  # noqa: SIM905
    )
    _CELLS = frozenset({"td", "th"})
    _IN_HEAD = frozenset(
        """
            html head title base basefont bgsound link meta style script noscript noframes template
        """.split()  # noqa: SIM905
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._blocks: list[Block] = []
        self._pieces: list[str] = []
        self._line = 1
        self._hidden: list[str] = []
        self._headings: list[tuple[int, str]] = []
        self._header: list[str] = []
        self._row: list[tuple[str, str]] | None = None

    def take(self) -> list[Block]:
        blocks, self._blocks = self._blocks, []
        return blocks

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body" or (self._hidden[-1:] == ["head"] and tag not in self._IN_HEAD):
            self._end_head()
        if tag in self._HIDDEN:
            self._hidden.append(tag)
        elif tag == "tr":
            self._end_block()
            self._row = []
        elif tag == "table":
            self._end_block()
            self._header = []
        elif tag in self._CELLS and self._row is not None:
            self._pieces = []
            self._line = self.getpos()[0]
        elif tag in self._BLOCKS and self._row is None:
            self._end_block()

    def handle_endtag(self, tag: str) -> None:
        if self._hidden:
            if tag in self._hidden:
                del self._hidden[self._hidden.index(tag) :]
        elif tag in self._CELLS and self._row is not None:
            if len(self._row) < MAX_COLUMNS:
                self._row.append((tag, " ".join("".join(self._pieces).split())))
            self._pieces = []
        elif tag == "tr" and self._row is not None:
            self._end_row(self._row)
            self._row = None
        elif len(tag) == 2 and tag[0] == "h" and tag[1] in "123456":
            text = " ".join("".join(self._pieces).split())
            self._pieces = []
            self._headings = _under(self._headings, int(tag[1]), text)
        elif tag in self._BLOCKS and self._row is None:
            self._end_block()

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if not self._pieces and data.strip():
            self._line = self.getpos()[0]
        if self._pieces or data.strip():
            self._pieces.append(data)

    def finish(self) -> None:
        self._end_block()

    def _end_head(self) -> None:
        """A head may be left open: it ends before what cannot be in it."""
        if "head" in self._hidden:
            del self._hidden[self._hidden.index("head") :]

    def _heading_path(self) -> str:
        return " / ".join(text for _, text in self._headings)

    def _end_block(self) -> None:
        text = " ".join("".join(self._pieces).split())
        self._pieces = []
        if text:
            self._blocks.append(Block(text, self._line, PlaceKind.LINE, self._heading_path()))

    def _end_row(self, row: list[tuple[str, str]]) -> None:
        cells = [text for _, text in row]
        if row and all(tag == "th" for tag, _ in row):
            self._header = [_header_name(text) for text in cells]
            return
        if self._header and len(cells) > 1:
            text = row_sentences(self._header, cells, _subject_column(self._header, [cells]))
        elif len(row) == 2 and row[0][0] == "th":
            text = f"{cells[0]}: {cells[1]}."
        else:
            text = ", ".join(filter(None, cells))
        if text:
            self._blocks.append(Block(text, self._line, PlaceKind.LINE, self._heading_path()))


_ENCRYPTED = 1
"""The bit of a zip entry's flags."""
_WORD_NAMESPACE = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


def _read_docx(path: Path) -> Iterator[Block]:
    with zipfile.ZipFile(path) as archive:
        try:
            entry = archive.getinfo("word/document.xml")
        except KeyError:
            raise UnreadableFile(path, "no Word document inside") from None
        if entry.file_size > MAX_DOCUMENT_XML_BYTES:
            raise UnreadableFile(path, "its text is too large")
        if entry.flag_bits & _ENCRYPTED:
            raise UnreadableFile(path, "encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnreadableFile(path, "packed in an unusual way")
        with archive.open(entry) as file:
            data = file.read(MAX_DOCUMENT_XML_BYTES + 1)
    if len(data) > MAX_DOCUMENT_XML_BYTES or b"<!DOCTYPE" in data[:4096]:
        raise UnreadableFile(path, "its text is too large or declares entities")
    body = ElementTree.fromstring(data).find(f"{_WORD_NAMESPACE}body")
    headings: list[tuple[int, str]] = []
    for element in body if body is not None else ():
        path_text = " / ".join(text for _, text in headings)
        if element.tag == f"{_WORD_NAMESPACE}tbl":
            yield from _word_table(element, path_text)
            continue
        text = _word_text(element)
        level = _word_heading_level(element)
        if level and text:
            headings = _under(headings, level, text)
        elif text:
            yield Block(text, heading=path_text)


def _word_text(element: ElementTree.Element) -> str:
    pieces: list[str] = []
    for node in element.iter():
        if node.tag == f"{_WORD_NAMESPACE}t":
            pieces.append(node.text or "")
        elif node.tag in (f"{_WORD_NAMESPACE}tab", f"{_WORD_NAMESPACE}br"):
            pieces.append(" ")
    return " ".join("".join(pieces).split())


def _word_heading_level(paragraph: ElementTree.Element) -> int:
    style = paragraph.find(f"{_WORD_NAMESPACE}pPr/{_WORD_NAMESPACE}pStyle")
    name = style.get(f"{_WORD_NAMESPACE}val", "") if style is not None else ""
    if name == "Title":
        return 1
    match = re.fullmatch(r"[Hh]eading\s?([1-6])", name)
    return int(match[1]) + 1 if match else 0


def _word_table(table: ElementTree.Element, heading: str) -> Iterator[Block]:
    rows = [
        [_word_text(cell) for cell in islice(row.findall(f"{_WORD_NAMESPACE}tc"), MAX_COLUMNS)]
        for row in table.findall(f"{_WORD_NAMESPACE}tr")
    ]
    if len(rows) < 2:
        return
    header = [_header_name(cell) for cell in rows[0]]
    subject = _subject_column(header, rows[1:])
    for row in rows[1:]:
        yield Block(row_sentences(header, row, subject), heading=heading)


def _read_pdf(path: Path) -> Iterator[Block]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError:
        raise UnreadableFile(path, "PDF needs: pip install 'duologue[pdf]'") from None
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableFile(path, "encrypted")
        for number, page in enumerate(islice(reader.pages, MAX_PAGES), 1):
            text = re.sub(r"(?<=\w)-\n(?=[a-z])", "", page.extract_text() or "")
            for paragraph in re.split(r"\n\s*\n", text):
                if paragraph.strip():
                    yield Block(paragraph, number, PlaceKind.PAGE)
    except (PyPdfError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UnreadableFile):
            raise
        raise UnreadableFile(path, f"broken PDF: {error}") from error


READERS: dict[str, Callable[[Path], Iterator[Block]]] = {
    ".txt": _read_text,
    ".text": _read_text,
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".html": _read_html,
    ".htm": _read_html,
    ".docx": _read_docx,
    ".pdf": _read_pdf,
}
