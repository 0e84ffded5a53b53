"""Building collections: synchronise, resume, refuse; on real Chroma stores with the hash embedder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents.chroma
import agents.index
from agents.chroma import build_lock, collection_name, find_collection, list_collections, open_client, read_rows
from agents.embedder import HashEmbedder, Matrix
from agents.errors import ConfigError, RetrieverError
from agents.index import IndexReport, build_index
from agents.retriever import open_retriever

TOY = HashEmbedder(32)


class Counting(HashEmbedder):
    """A hash embedder that counts passages and pulls the plug after some of them."""

    def __init__(self, stop_after: int = 10**9) -> None:
        super().__init__(32)
        self.seen = 0
        self.stop_after = stop_after

    def encode(self, texts: Sequence[str]) -> Matrix:
        if self.seen + len(texts) > self.stop_after:
            raise KeyboardInterrupt
        self.seen += len(texts)
        return super().encode(texts)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for name in ("ant", "bee", "cat", "dog", "elk"):
        (folder / f"{name}.txt").write_text(f"The {name} is an animal.")
    return folder


def build(source: Path, store: Path, embedder: HashEmbedder = TOY, **options: object) -> IndexReport:
    return build_index(source, embedder=embedder, folder=store, **options)  # type: ignore[arg-type]


def counts(report: IndexReport) -> tuple[int, int, int, int, int]:
    return report.passages, report.added, report.updated, report.removed, report.kept


def test_only_changes_are_embedded_and_vanished_files_go(tmp_path: Path, notes: Path) -> None:
    store = tmp_path / "store"
    first = build(notes, store)
    assert (first.collection, first.embedder, counts(first)) == ("documents", "hash-32", (5, 5, 0, 0, 0))

    (notes / "ant.txt").unlink()
    (notes / "bee.txt").write_text("Bees dance.")
    (notes / "fox.txt").write_text("The fox jumps.")
    counting = Counting()
    second = build(notes, store, counting)
    assert counts(second) == (5, 1, 1, 1, 3)
    assert counting.seen == 2
    assert second.content != first.content

    fresh = build(notes, tmp_path / "other")
    assert second.content == fresh.content
    again = build(notes, store, counting)
    assert counts(again) == (5, 0, 0, 0, 5) and counting.seen == 2 and again.content == second.content


def test_sources_share_a_collection_and_own_their_passages(tmp_path: Path, notes: Path) -> None:
    store, more = tmp_path / "store", tmp_path / "more"
    more.mkdir()
    (more / "gnu.txt").write_text("The gnu runs.")
    build(notes, store)
    assert counts(build(more, store)) == (6, 1, 0, 0, 0)
    (notes / "elk.txt").unlink()
    assert counts(build(notes, store)) == (5, 0, 0, 1, 4)
    (more / "ant.txt").write_text("Another ant.")
    with pytest.raises(
        ConfigError, match=r'passage id "ant.txt#0" of .*more is in the collection already, from .*notes'
    ):
        build(more, store)


def test_passages_keep_title_text_and_source(tmp_path: Path) -> None:
    table = tmp_path / "rows.jsonl"
    table.write_text('{"id": "b", "title": "", "text": "Second"}\n{"id": "a", "title": "One", "text": "First"}\n')
    build(table, tmp_path / "store")
    collection = find_collection(open_client(tmp_path / "store"), "documents")
    assert collection is not None
    rows = read_rows(collection)
    assert (rows.ids, rows.titles, rows.texts, rows.sources) == (
        ["a", "b"],
        ["One", ""],
        ["First", "Second"],
        ["rows.jsonl", "rows.jsonl"],
    )
    np.testing.assert_allclose(rows.vectors, TOY.encode(["One\nFirst", "Second"]), atol=1e-6)
    light = read_rows(collection, dense=False)
    assert light.vectors.shape == (0, 0) and (light.ids, light.texts) == (rows.ids, rows.texts)


def test_many_pages_are_read_in_the_order_of_their_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, names = tmp_path / "rows.jsonl", [f"p{place * 7 % 23:02d}" for place in range(23)]
    table.write_text("".join(json.dumps({"id": name, "text": f"Text of {name}"}) + "\n" for name in names))
    build(table, tmp_path / "store")
    collection = find_collection(open_client(tmp_path / "store"), "documents")
    assert collection is not None
    whole = read_rows(collection)
    monkeypatch.setattr(agents.chroma, "_PAGE", 5)
    monkeypatch.setattr(agents.chroma, "_IDS", 4)
    rows = read_rows(collection)
    assert rows.ids == sorted(names) and rows.texts == [f"Text of {name}" for name in rows.ids]
    np.testing.assert_allclose(rows.vectors, TOY.encode(rows.texts), atol=1e-6)
    assert np.array_equal(rows.vectors, whole.vectors) and rows.vectors.dtype == np.float32


def test_a_passage_that_vanishes_while_it_is_read_is_told(tmp_path: Path, notes: Path) -> None:
    build(notes, tmp_path / "store")
    collection = find_collection(open_client(tmp_path / "store"), "documents")
    assert collection is not None

    class Shrinking:
        """Another process removes a passage after the ids were read."""

        name = collection.name

        def get(self, **asked: Any) -> Any:
            if "ids" in asked:
                collection.delete(ids=asked["ids"][:1])
            return collection.get(**asked)

    with pytest.raises(RetrieverError, match='collection "documents" was changed while it was read; open it again'):
        read_rows(Shrinking())  # type: ignore[arg-type]


def test_an_interrupted_build_is_reported_and_resumed(
    tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents.index, "BLOCK", 2)
    store = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        build(notes, store, Counting(stop_after=4))
    assert [(info.passages, info.state) for info in list_collections(store)] == [(4, "building")]
    with pytest.raises(RetrieverError, match=r"unfinished: 4 of 5 passages .*jade index FOLDER --collection documents"):
        open_retriever("documents", embedder=TOY, folder=store)

    rest = Counting()
    resumed = build(notes, store, rest)
    assert rest.seen == 1
    assert counts(resumed) == (5, 1, 0, 0, 4)
    build(notes, tmp_path / "other")
    whole = open_retriever("documents", embedder=TOY, folder=tmp_path / "other")
    mended = open_retriever("documents", embedder=TOY, folder=store)
    assert mended.identity == whole.identity
    assert mended.search(["the dog", "bee"]) == whole.search(["the dog", "bee"])


def test_an_interrupted_update_is_reported_too(tmp_path: Path, notes: Path) -> None:
    build(notes, tmp_path / "store")
    (notes / "fox.txt").write_text("The fox jumps.")
    with pytest.raises(KeyboardInterrupt):
        build(notes, tmp_path / "store", Counting(stop_after=0))
    with pytest.raises(RetrieverError, match="unfinished: 5 of 6"):
        open_retriever("documents", embedder=TOY, folder=tmp_path / "store")


def test_another_embedder_is_refused_until_rebuilt(tmp_path: Path, notes: Path) -> None:
    store = tmp_path / "store"
    build(notes, store)
    with pytest.raises(RetrieverError) as caught:
        build(notes, store, HashEmbedder(64))
    for part in ('embedder "hash-32"', 'not with "hash-64"', "--embedder hash-32", "--collection", "--rebuild"):
        assert part in str(caught.value)
    assert counts(build(notes, store, HashEmbedder(64), rebuild=True)) == (5, 5, 0, 0, 0)
    assert open_retriever("documents", embedder="hash-64", folder=store).passages == 5
    with pytest.raises(RetrieverError, match='built with the embedder "hash-64", not with "hash-32"'):
        open_retriever("documents", embedder=TOY, folder=store)


def test_other_weights_under_the_same_name_are_told_apart(tmp_path: Path, notes: Path) -> None:
    build(notes, tmp_path / "store")
    retrained = HashEmbedder(32)
    retrained.digest = "f" * 32
    with pytest.raises(RetrieverError, match=r"other weights of that name: [0-9a-f]{8}, now ffffffff"):
        build(notes, tmp_path / "store", retrained)


def test_a_foreign_collection_is_never_written(tmp_path: Path, notes: Path) -> None:
    client = open_client(tmp_path / "store", create=True)
    theirs = client.create_collection("documents", embedding_function=None)
    theirs.add(ids=["1"], embeddings=[[1.0] * 32], documents=["theirs"])
    for rebuild in (False, True):
        with pytest.raises(RetrieverError, match="was not built by JADE"):
            build(notes, tmp_path / "store", rebuild=rebuild)
    assert theirs.get()["documents"] == ["theirs"]
    assert [(i.name, i.passages, i.state) for i in list_collections(tmp_path / "store")] == [
        ("documents", 1, "foreign")
    ]


def test_two_builders_exclude_each_other(tmp_path: Path, notes: Path) -> None:
    with build_lock(tmp_path / "store"), pytest.raises(RetrieverError, match="another process is building"):
        build(notes, tmp_path / "store")
    assert build(notes, tmp_path / "store").passages == 5


def test_bad_input_leaves_the_collection_as_it_was(tmp_path: Path, notes: Path) -> None:
    store = tmp_path / "store"
    content = build(notes, store).content
    (notes / "bad.jsonl").write_text("{")
    with pytest.raises(ConfigError, match=r"bad.jsonl, line 1: not JSON"):
        build(notes, store)
    assert open_retriever("documents", embedder=TOY, folder=store).identity["content"] == content
    report = build(notes, store, skip_bad=True)
    assert len(report.skipped) == 1 and report.content == content


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"source": "x", "dataset": "nq"}, "give one of them"),
        ({"dataset": "triviaqa"}, 'no bundled dataset "triviaqa"; there are starter, nq'),
        ({"source": "x", "collection": "nq"}, "name of a bundled corpus"),
        ({"source": "x", "collection": "a b"}, '"a b" cannot be the name of a collection; wanted 3 to 512'),
    ],
)
def test_bad_arguments(options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_index(**options)  # type: ignore[arg-type]


def test_names_of_bundled_corpora_are_long_enough_for_chroma() -> None:
    assert collection_name("nq") == "data-nq"
    assert collection_name("mine") == "mine"


def test_progress_is_told(tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.index, "BLOCK", 2)
    told: list[tuple[str, int, int]] = []
    build(notes, tmp_path / "store", progress=lambda *line: told.append(line))
    assert told == [("reading", 0, 0), *(("embedding", done, 5) for done in (0, 2, 4, 5))]
