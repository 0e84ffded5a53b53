"""Read what a user wants indexed: a folder of texts, or a table of passages; every fault is named by file and line.

.txt .md .html .pdf are documents and are split into passages; .jsonl(.gz) and .csv hold passages with `text` and,
if they like, `id` and `title`, taken as they are (rows longer than 2,000 characters are split too). Passage ids
are stable: a row keeps its own id, a document's passages are `<path in the folder>#<number>`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from agents.errors import ConfigError
from agents.pages import clean, read_html, read_pdf

TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf")
TABLE_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv")

CHUNK = 1000
"""Default size of a document's passages, in characters (about 200 tokens; MiniLM reads 256)."""
OVERLAP = 100
"""Characters that neighbouring passages of a document share."""
LONG_ROW = 2000
"""Rows of a table up to this many characters stay whole."""
_CELL = 1 << 27
"""Longest cell of a CSV file, in characters; Python's own limit is 131,072."""


@dataclass(frozen=True)
class Document:
    """One passage to index."""

    id: str
    title: str
    text: str
    source: str
    """The file it came from, relative to the folder that was indexed; for bundled corpora the dataset."""

    @cached_property
    def digest(self) -> str:
        """Return a hash of what is embedded and shown: title and text."""
        return text_digest(self.title, self.text)

    @property
    def embedded_text(self) -> str:
        """Return what the embedder and BM25 see: title and text, the title not twice."""
        return embedded_text(self.title, self.text)


def text_digest(title: str, text: str) -> str:
    """Return the hash of one passage's title and text."""
    return blake2b(f"{title}\n{text}".encode(), digest_size=12).hexdigest()


def content_digest(hashes: Iterable[tuple[str, str]]) -> str:
    """Return the digest of a collection's (passage id, text digest) pairs, whatever their order."""
    total = blake2b(digest_size=16)
    for identifier, text in sorted(hashes):
        total.update(f"{identifier}\t{text}\n".encode())
    return total.hexdigest()


def embedded_text(title: str, text: str) -> str:
    """Join title and text unless the text opens with the title."""
    return text if not title or text.startswith(title) else f"{title}\n{text}"


@dataclass(frozen=True)
class Reading:
    """What came out of a source."""

    documents: list[Document]
    """Passages, ids distinct, in order of path and place."""
    skipped: tuple[str, ...]
    """One line per file that was left out, with the reason."""


def read_documents(
    source: str | Path, *, chunk: int = CHUNK, overlap: int = OVERLAP, skip_bad: bool = False
) -> Reading:
    """Read a folder (recursively, hidden files left out) or a single file into passages.

    Args:
        source: Folder or file.
        chunk: Longest passage of a document, in characters.
        overlap: Characters shared by neighbouring passages of a document.
        skip_bad: Leave out files with faults, and say so in the result, instead of raising.

    Raises:
        ConfigError: Nothing there, an unknown file type, or a fault in a file (named with its line).
    """
    if not 0 <= overlap < chunk:
        raise ConfigError(f"overlap is {overlap} and chunk {chunk} characters; wanted 0 <= overlap < chunk")
    root, files, skipped = _files(Path(source).expanduser())
    documents: list[Document] = []
    owners: dict[str, str] = {}
    for path in files:
        try:
            found = _read_file(path, clean(path.relative_to(root).as_posix()), chunk, overlap)
            _claim(found, owners)
        except ConfigError as error:
            if not skip_bad:
                hint = "\n(--skip-bad leaves out files with faults)" if len(files) > 1 else ""
                raise ConfigError(f"{error}{hint}") from error
            skipped.append(str(error))
            continue
        documents.extend(found)
    if not documents:
        raise ConfigError(
            f"{source} holds nothing to index; allowed are {', '.join(TEXT_SUFFIXES + TABLE_SUFFIXES)}"
            + "".join(f"\n  left out: {line}" for line in skipped[:5])
        )
    return Reading(documents, tuple(skipped))


def _files(source: Path) -> tuple[Path, list[Path], list[str]]:
    """Return (folder that ids are relative to, readable files, a line for each file that is left out)."""
    if source.is_file():
        if not _suffix(source):
            raise ConfigError(
                f"{source} has an unknown file type; allowed are {', '.join(TEXT_SUFFIXES + TABLE_SUFFIXES)}"
            )
        return source.parent, [source], []
    if not source.is_dir():
        raise ConfigError(f"{source} does not exist; give a folder of documents, a .jsonl(.gz) or a .csv file")
    every = [path for path in sorted(source.rglob("*")) if path.is_file()]
    shown = [path for path in every if not any(part[0] == "." for part in path.relative_to(source).parts)]
    faults = {path: _left_out(path, source.resolve()) for path in shown}
    return (
        source,
        [path for path in shown if not faults[path]],
        [f"{path}: {why}" for path, why in faults.items() if why],
    )


def _left_out(path: Path, root: Path) -> str:
    """Return why a file of a folder is not read; "" = it is. Links out of it could publish what its owner never saw."""
    if not path.resolve().is_relative_to(root):
        return "a link that leads out of the folder; put the file itself there, or index its own folder"
    return "" if _suffix(path) else "unknown file type"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((suffix for suffix in TABLE_SUFFIXES + TEXT_SUFFIXES if name.endswith(suffix)), "")


def _claim(documents: Iterable[Document], owners: dict[str, str]) -> None:
    """Enter the ids of one file, unless it has one of them twice or another file has it."""
    own: dict[str, str] = {}
    for document in documents:
        if document.id in own:
            raise ConfigError(
                f'{document.source}: passage id "{document.id}" comes twice (a long row "x" is split into "x#0", '
                '"x#1", ...); ids must be distinct'
            )
        own[document.id] = document.source
        if document.id in owners:
            raise ConfigError(
                f'{document.source}: passage id "{document.id}" is also in {owners[document.id]}; '
                "ids must be distinct in a collection"
            )
    owners.update(own)


def _read_file(path: Path, name: str, chunk: int, overlap: int) -> list[Document]:
    suffix = _suffix(path)
    if suffix in TABLE_SUFFIXES:
        rows = _csv_rows(path) if suffix == ".csv" else _json_rows(path)
        return list(_table(rows, path, name, chunk, overlap))
    if suffix == ".pdf":
        title, text = read_pdf(path)
    else:
        content = _decode(_bytes(path), path)
        title, text = read_html(content, path) if suffix in (".html", ".htm") else (_heading(content, suffix), content)
    if not text.strip():
        why = "no text in it (a scan?); run it through OCR first" if suffix == ".pdf" else "empty; remove it or fill it"
        raise ConfigError(f"{path}: {why}")
    title = title.strip() or clean(path.stem)
    return [Document(f"{name}#{number}", title, part, name) for number, part in enumerate(_split(text, chunk, overlap))]


def _split(text: str, chunk: int, overlap: int) -> list[str]:
    """Split at paragraphs, else lines, else words, so that no part is longer than `chunk` characters."""
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    return RecursiveCharacterTextSplitter(chunk_size=chunk, chunk_overlap=overlap).split_text(text)


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        likely = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "latin1"
        raise ConfigError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8 "
            f"(iconv -f {likely} -t utf-8)"
        ) from error


def _heading(content: str, suffix: str) -> str:
    """Return the first heading of a Markdown file, else ""."""
    if suffix not in (".md", ".markdown"):
        return ""
    return next((line.lstrip("# ") for line in content.splitlines() if line.startswith("#")), "")


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        content = gzip.decompress(_bytes(path)) if path.suffix.lower() == ".gz" else _bytes(path)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: not a readable gzip file ({error})") from error
    for line, text in enumerate(_decode(content, path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}, line {line}: not JSON ({error}); wanted one object a line") from error
        if not isinstance(row, dict):
            raise ConfigError(
                f"{path}, line {line}: a JSON {type(row).__name__}; wanted an object with id, title, text"
            )
        yield line, row


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(max(csv.field_size_limit(), _CELL))
    reader = csv.DictReader(io.StringIO(_decode(_bytes(path), path), newline=""), strict=True)
    try:
        columns = [str(name).strip().casefold() for name in reader.fieldnames or ()]
        given = reader.fieldnames is not None
        if given and (columns.count("text") != 1 or columns.count("id") > 1 or columns.count("title") > 1):
            raise ConfigError(
                f"{path}, line 1: columns {', '.join(map(str, reader.fieldnames or ()))}; wanted a header with "
                'one "text", and one "id" and "title" if there are any, separated by commas'
            )
        if given:
            reader.fieldnames = columns
        for row in reader:
            beyond = row.get(None)  # where DictReader puts what stands beyond the header
            if beyond and any(cell.strip() for cell in beyond):
                raise ConfigError(
                    f"{path}, line {reader.line_num}: {len(columns) + len(beyond)} cells, but the header names "
                    f'{len(columns)}; put a text that holds commas into double quotes ("…")'
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.reader.line_num}: not CSV ({error})") from error


def _table(
    rows: Iterable[tuple[int, Mapping[str, Any]]], path: Path, name: str, chunk: int, overlap: int
) -> Iterator[Document]:
    lines: dict[str, int] = {}
    for line, row in rows:
        text = _field(row, "text", path, line)
        identifier = _field(row, "id", path, line) if row.get("id") not in (None, "") else f"{name}:{line}"
        title = _field(row, "title", path, line) if row.get("title") not in (None, "") else ""
        if identifier in lines:
            raise ConfigError(
                f'{path}, line {line}: id "{identifier}" was used in line {lines[identifier]}; ids must be distinct'
            )
        lines[identifier] = line
        if len(text) <= LONG_ROW:
            yield Document(identifier, title, text, name)
            continue
        for number, part in enumerate(_split(text, chunk, overlap)):
            yield Document(f"{identifier}#{number}", title, part, name)
    if not lines:
        raise ConfigError(f"{path}: empty; wanted at least one passage")


def _field(row: Mapping[str, Any], field: str, path: Path, line: int) -> str:
    """Return a non-blank string field; whole numbers are accepted as ids."""
    value = row.get(field)
    if field == "id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        was = "missing" if value is None else "blank" if isinstance(value, str) else f"{value!r:.60}"
        raise ConfigError(f'{path}, line {line}: field "{field}" is {was}; wanted text')
    if clean(value) != value:
        raise ConfigError(f'{path}, line {line}: field "{field}" has half a surrogate pair (\\ud800 to \\udfff)')
    return value.strip() if field != "text" else value
