"""The documents that a user wants indexed: arbitrary files of every kind but PDF, whose reader is another's.

Passages come out whose ids are distinct and whose texts can be stored; written as JSONL they are read as themselves.
Or `ConfigError`, which names the file.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

from agents.documents import LONG_ROW, Document, read_documents
from agents.errors import ConfigError
from fuzz.material import Material
from fuzz.scratch import put
from fuzz.target import Target, hold

TABLES = (".jsonl", ".csv", ".jsonl.gz")
TEXTS = (".txt", ".md", ".html")
WORDS = (
    *(
        '{"id":',
        '"title":',
        '"text":',
        '"text"',
        ",",
        '"',
        '""',
        "\n",
        "\r\n",
        "\r",
        "id,title,text\n",
        "null",
        "\\ud800",
    ),
    *("\ufeff", "text", "# ", "\n\n", "\x00", "1e999", "1" * 30, "\\u0000", ";", "\t"),
)
MARKUP = (
    *("<html>", "<title>", "</title>", "<p>", "</p>", "<script>", "</script>", "<!--", "-->", "<![CDATA[", "]]>", "<!"),
    *("<![if ", "<?", "&#x", "&#99999999;", "&amp;", "<template>", "<a href=", "'", '"', ">", "\n# ", "<!DOCTYPE "),
)


def _read(suffix: str, content: bytes) -> list[Document] | None:
    """Return what is read from a file, or None where it is refused."""
    file = put(f"file{suffix}", content)
    try:
        found = read_documents(file, chunk=60, overlap=10).documents
    except ConfigError as error:
        hold(file.name in str(error), f"a refusal names the file: {error}")
        return None
    hold(found and len({document.id for document in found}) == len(found), "passages have ids of their own")
    for document in found:
        hold(document.text.strip() and document.id.strip(), "no passage is blank")
        "\n".join((document.id, document.title, document.text, document.source)).encode("utf-8")
        hold(len(document.digest) == 24, "every passage has a digest")
    return found


def _check_tables(data: bytes) -> None:
    material = Material(data)
    suffix, content = material.pick(TABLES), material.rest()
    packed = gzip.compress(content, 1) if suffix == ".jsonl.gz" and content[:2] != b"\x1f\x8b" else content
    found = _read(suffix, packed)
    if found is None or any(len(document.text) > LONG_ROW for document in found):
        return
    rows = [{"id": one.id, "title": one.title, "text": one.text} for one in found]
    again = _read(".again.jsonl", "\n".join(map(json.dumps, rows)).encode())
    hold(again is not None, "what was read can be written")
    kept = [(one.id, one.title, one.text) for one in again or ()]
    hold(kept == [(one.id, one.title, one.text) for one in found], "and is read as itself")


def _check_texts(data: bytes) -> None:
    material = Material(data)
    for document in _read(material.pick(TEXTS), material.rest()) or ():
        hold(len(document.text) <= 60, "a passage is no longer than wanted")


def _table_seeds() -> Iterator[bytes]:
    rows = b'{"id": "a", "title": "Dune", "text": "A novel."}\n{"id": 7, "text": "Another."}\n'
    yield b"\x00" + rows
    yield b"\x02" + rows
    yield b'\x01id,title,text\na,Dune,A novel.\nb,,"Another, ""quoted""."\n'
    yield b"\x01text\r\none\r\ntwo\r\n"
    yield b'\x00{"text": "' + b"word " * 90 + b'"}'


def _text_seeds() -> Iterator[bytes]:
    yield b"\x00One paragraph of words that go on and on and on, and on.\n\nAnother one.\n"
    yield b"\x01# Dune\n\nA novel by Frank Herbert, of sand and spice and worms and kings.\n"
    yield b"\x02<html><title>Dune</title><body><p>A <b>novel</b>.</p><script>1</script></body></html>"
    yield b"\x02<!DOCTYPE html><!-- a --><![CDATA[x]]><p>A &amp; B"


TARGETS = (
    Target(
        "tables",
        "passages with ids of their own that, written as JSONL, are read as themselves, or ConfigError with the file",
        _check_tables,
        _table_seeds,
        WORDS,
        1024,
        300_000,
    ),
    Target(
        "texts",
        "passages that are not blank and no longer than wanted, or ConfigError with the file's name",
        _check_texts,
        _text_seeds,
        WORDS + MARKUP,
        512,
        150_000,
    ),
)
