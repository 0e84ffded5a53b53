"""Reading folders and tables: what becomes a passage, and that every fault names its file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.documents import Document, content_digest, embedded_text, read_documents
from agents.errors import ConfigError

_CUT_SHORT = gzip.compress(b'{"text": "cut short"}' * 9, mtime=0)[:-12]


def pdf(text: str) -> bytes:
    """A one-page PDF that shows `text`."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    head = b"xref\n0 6\n0000000000 65535 f \n" + table
    return out + head + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(out)


def fault(source: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_documents(source)
    return str(caught.value)


def test_a_folder_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("Plain words.")
    (tmp_path / "b.md").write_text("intro\n\n# The Title\n\nBody.")
    (tmp_path / "c.html").write_text("<title>Page</title><script>bad()</script><p>Seen &amp; read</p>")
    (tmp_path / "d.pdf").write_bytes(pdf("Printed words"))
    (tmp_path / "e.jsonl").write_text('{"id": "x1", "title": "T", "text": "Row"}\n\n{"text": "No id"}\n')
    (tmp_path / "f.csv").write_text('id,title,text\n7,"C, D","two\nlines"\n')
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress(b'{"id": 9, "text": "Packed"}\n'))
    (tmp_path / ".hidden.txt").write_text("never")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")

    reading = read_documents(tmp_path)

    assert [(d.id, d.title, d.text, d.source) for d in reading.documents] == [
        ("b.md#0", "The Title", "intro\n\n# The Title\n\nBody.", "b.md"),
        ("c.html#0", "Page", "Seen & read", "c.html"),
        ("d.pdf#0", "d", "Printed words", "d.pdf"),
        ("x1", "T", "Row", "e.jsonl"),
        ("e.jsonl:3", "", "No id", "e.jsonl"),
        ("7", "C, D", "two\nlines", "f.csv"),
        ("9", "", "Packed", "g.jsonl.gz"),
        ("sub/a.txt#0", "a", "Plain words.", "sub/a.txt"),
    ]
    assert reading.skipped == (f"{tmp_path / 'picture.png'}: unknown file type",)


def test_long_documents_are_split_and_long_rows_too(tmp_path: Path) -> None:
    words = " ".join(f"word{n}" for n in range(400))
    (tmp_path / "long.txt").write_text(words)
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"id": "whole", "text": "x" * 2000}) + "\n" + json.dumps({"id": "cut", "text": words}) + "\n"
    )
    documents = read_documents(tmp_path, chunk=300, overlap=50).documents
    parts = [d for d in documents if d.source == "long.txt"]
    assert [d.id for d in parts] == [f"long.txt#{n}" for n in range(len(parts))]
    assert all(len(d.text) <= 300 for d in parts)
    assert {word for d in parts for word in d.text.split()} == set(words.split())
    assert [d.id for d in documents if d.id == "whole" or d.id.startswith("cut")][:3] == ["whole", "cut#0", "cut#1"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": "ok"}\n{"text": \n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl, line 1: a JSON list; wanted an object"),
        ("a.jsonl", b'{"id": "1"}\n', 'a.jsonl, line 1: field "text" is missing'),
        ("a.jsonl", b'\n{"id": "1", "text": "  "}\n', 'a.jsonl, line 2: field "text" is blank'),
        ("a.jsonl", b'{"text": 5}', 'a.jsonl, line 1: field "text" is 5'),
        ("a.jsonl", b'{"text": "ok", "title": ["x"]}', "field \"title\" is ['x']"),
        ("a.jsonl", b'{"text": "\\ud800"}', 'field "text" has half a surrogate pair'),
        ("a.jsonl", b'{"id": "q", "text": "a"}\n{"id": "q", "text": "b"}', 'line 2: id "q" was used in line 1'),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "caf\xe9"}', "a.jsonl, line 2: byte 0xe9 is not UTF-8"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: not JSON"),
        ("a.jsonl", b"\n\n", "a.jsonl: empty"),
        ("a.jsonl.gz", b"not gzip", "a.jsonl.gz: not a readable gzip file"),
        (
            "a.jsonl.gz",
            _CUT_SHORT,
            "a.jsonl.gz: not a readable gzip file",
        ),
        ("a.csv", b"id,body\n1,x\n", "a.csv, line 1: columns id, body; wanted a header with"),
        ("a.csv", b"id,text\n1,x\n2\n", 'a.csv, line 3: field "text" is missing'),
        ("a.csv", b'id,text\n1,"open\n', "a.csv, line 2: not CSV"),
        ("a.csv", b"id,text\n1,a\n2,Paris, the capital\n", "a.csv, line 3: 3 cells, but the header names 2; put"),
        ("a.csv", b"id,text\n", "a.csv: empty"),
        ("a.txt", b"one\ntwo\n\xff", "a.txt, line 3: byte 0xff is not UTF-8"),
        ("a.txt", b" \n", "a.txt: empty"),
        ("a.html", b"<title>only a title</title>", "a.html: empty"),
        ("a.pdf", b"%PDF-1.4 broken", "a.pdf: not a readable PDF"),
        ("a.pdf", pdf(""), "a.pdf: no text in it (a scan?)"),
        ("a.docx", b"PK", "unknown file type; allowed are .txt"),
    ],
)
def test_a_fault_names_file_and_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert says in fault(tmp_path / name)


def test_nothing_to_index(tmp_path: Path) -> None:
    assert "does not exist" in fault(tmp_path / "nowhere")
    (tmp_path / "x.png").write_bytes(b"")
    message = fault(tmp_path)
    assert "holds nothing to index" in message
    assert "x.png: unknown file type" in message


def test_an_id_in_two_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "q", "text": "a"}')
    (tmp_path / "b.jsonl").write_text('{"id": "q", "text": "b"}')
    assert fault(tmp_path).startswith('b.jsonl: passage id "q" is also in a.jsonl')


def test_skip_bad_keeps_the_rest_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "never half a file"}\n{')
    (tmp_path / "good.txt").write_text("Fine.")
    reading = read_documents(tmp_path, skip_bad=True)
    assert [d.id for d in reading.documents] == ["good.txt#0"]
    assert len(reading.skipped) == 1 and "bad.jsonl, line 2: not JSON" in reading.skipped[0]


def test_overlap_must_be_below_chunk(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="overlap is 100 and chunk 100"):
        read_documents(tmp_path, chunk=100, overlap=100)


def test_embedded_text_says_the_title_once() -> None:
    assert embedded_text("Emma", "A novel.") == "Emma\nA novel."
    assert embedded_text("Emma", "Emma is a novel.") == "Emma is a novel."
    assert embedded_text("", "A novel.") == "A novel."
    assert Document("1", "Emma", "A novel.", "f").embedded_text == "Emma\nA novel."


def test_content_digest_ignores_order_but_no_change() -> None:
    pairs = [("a", "1"), ("b", "2")]
    assert content_digest(pairs) == content_digest(reversed(pairs))
    others = [[("a", "1")], [("a", "1"), ("b", "3")], [("a", "1"), ("c", "2")], [("a", "2"), ("b", "1")]]
    assert len({content_digest(pairs), *map(content_digest, others)}) == 5


@given(st.binary(max_size=300), st.sampled_from(["a.jsonl", "a.csv", "a.txt", "a.html", "a.md", "a.jsonl.gz", "a.pdf"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    try:
        documents = read_documents(path).documents
    except ConfigError as error:
        assert str(path.name) in str(error)
    else:
        assert documents and all(d.text.strip() and d.digest for d in documents)
