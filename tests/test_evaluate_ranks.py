"""An evaluation shared out over real processes that speak gloo, against the one process that they stand for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agents.errors import ConfigError
from evaluation.records import Record, RecordStore
from evaluation.sharing import put_together
from graphs.ledger import read_ledger
from tests.eval_toy import Broken, systems_of, toy_eval, two_sets
from tests.ppo_child import at
from tests.rank_jobs import job
from tests.scripted import PASSAGES
from tests.toy_model import toy_model


def evaluated(folder: Path, size: int, own: dict[int, dict[str, Any]] | None = None, **changes: Any) -> list[int]:
    """Evaluate as `size` ranks; return their exit statuses."""
    return job(measure_share, size, folder.with_suffix(".log"), str(folder), changes, own or {})


def measure_share(folder: str, changes: dict[str, Any], own: dict[int, dict[str, Any]]) -> None:
    """Be one rank: two systems on two sets of five and three questions.

    Args:
        folder: Output.
        changes: Options; "bad" = queries with these words cannot be searched for.
        own: What differs by rank: "death" comes at the n-th record, options.
    """
    import evaluation.figures
    import evaluation.report
    from evaluation.evaluate import measure
    from evaluation.ranks import joined

    evaluation.figures.figures_of = lambda report: {}  # type: ignore[assignment]
    evaluation.report.COMPARED = ("f1",)  # type: ignore[assignment]
    with joined("cpu") as ranks:
        mine = dict(own.get(ranks.rank, {}))
        if (death := mine.pop("death", None)) is not None:
            at(RecordStore, "add", death)
        options = {"in_flight": 1, **changes, **mine}
        one = Broken(PASSAGES)
        one.bad = options.pop("bad", "no query says this")
        config, sets = toy_eval(Path(folder), **options), two_sets()
        searched = {asked.name: one for asked in sets}
        report = measure(config, systems_of(config), sets, toy_model(), searched, ranks=ranks)
        assert (report is not None) == ranks.leads


def said(folder: Path, rank: int) -> str:
    return Path(f"{folder.with_suffix('.log')}.{rank}").read_text()


def lines(folder: Path, name: str = "records.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "eval" / name).read_text().splitlines()]


def essence(folder: Path) -> dict[Any, Any]:
    """Return question → what was answered, each once; the clock's numbers left out."""
    rows = lines(folder)
    found = {(row["system"], row["set"], row["id"]): {**row, "seconds": None} for row in rows}
    assert len(found) == len(rows), "a question was asked twice"
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_unequal_shares_answer_what_one_process_answers_each_question_once(size: int, tmp_path: Path) -> None:
    alone, many = tmp_path / "alone", tmp_path / "many"
    assert evaluated(alone, 1) == [0], said(alone, 0)
    assert evaluated(many, size) == [0] * size, said(many, 0) + said(many, 1)
    assert essence(many) == essence(alone) and len(essence(many)) == 16
    assert sorted(file.name for file in (many / "eval").glob("records*")) == ["records.jsonl"]
    recorded = [run for folder in sorted((many / "eval" / "ledger").iterdir()) for run in read_ledger(folder)]
    assert Counter(run.run for run in recorded) == Counter(row["run"] for row in lines(many))
    shares = {file.name for file in (many / "eval" / "ledger" / "R-AG-none").iterdir()}
    assert {f"toy.rank{rank}of{size}.jsonl" for rank in range(size)} <= shares
    ours, theirs = (json.loads((folder / "eval" / "report.json").read_text()) for folder in (many, alone))
    assert ours["comparisons"] == theirs["comparisons"] and ours["failed"] == theirs["failed"]
    assert ours["means"]["jade@none"]["macro"]["f1"] == theirs["means"]["jade@none"]["macro"]["f1"]


def test_a_killed_rank_ends_the_job_by_name_and_any_rerun_asks_only_the_rest(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert evaluated(whole, 1) == [0]
    assert evaluated(killed, 2, {1: {"death": 3}}) == [2, -9]
    message = said(killed, 0)
    assert "rank 0 of 2 waits in vain: rank 1 (process" in message and "has ended" in message
    assert "run the same command again" in message and "Traceback" not in message
    left = {rank: lines(killed, f"records.rank{rank}of2.jsonl") for rank in (0, 1)}
    assert [len(left[0]), len(left[1])] == [8, 2] and not (killed / "eval" / "report.json").exists()
    assert evaluated(killed, 3) == [0, 0, 0], said(killed, 0)
    assert lines(killed)[:10] == left[0] + left[1]  # none was asked again
    strip = {key: {**row, "run": None} for key, row in essence(killed).items()}
    assert strip == {key: {**row, "run": None} for key, row in essence(whole).items()}
    before = (killed / "eval" / "records.jsonl").read_bytes()
    assert evaluated(killed, 2) == [0, 0] and (killed / "eval" / "records.jsonl").read_bytes() == before


def test_ranks_that_would_ask_differently_are_refused(tmp_path: Path) -> None:
    assert evaluated(tmp_path / "run", 2, {1: {"top_k": 3}}) == [2, 2]
    assert "the options of rank 1 differ from rank 0's; start the same command" in said(tmp_path / "run", 0)
    assert not (tmp_path / "run" / "eval").exists()


def test_a_system_whose_every_run_failed_is_named_over_all_ranks(tmp_path: Path) -> None:
    folder, systems = tmp_path / "run", ["R,AG@none", "AG@none"]
    assert evaluated(folder, 2, systems=systems, bad="") == [0, 0], said(folder, 0)
    told = [line for line in said(folder, 0).splitlines() if "every run failed" in line]
    why = "every run failed: RetrieverError: the index is damaged"
    assert told == [f"R,AG@none on toy: {why}", f"R,AG@none on other: {why}"]
    assert "every run failed" not in said(folder, 1)
    some = tmp_path / "some"
    assert evaluated(some, 2, systems=systems[:1], bad="mayor") == [0, 0], said(some, 0)
    assert "every run failed" not in said(some, 0) + said(some, 1), "all of one rank's share is not all"
    assert len(essence(some)) == 8


def record(identifier: str, answer: str = "yes") -> Record:
    return Record("jade", "toy", "h", identifier, 0, "Is it?", answer, "ok")


def test_what_ranks_left_behind_is_put_together_once(tmp_path: Path) -> None:
    main, one, two = RecordStore(tmp_path), RecordStore(tmp_path, ".rank0of2"), RecordStore(tmp_path, ".rank2of3")
    for store, names in ((main, "ab"), (one, "bc"), (two, "d")):
        for name in names:
            store.add(record(name))
        store.close()
    with two.file.open("a") as stream:
        stream.write('{"system": "jad')  # it was killed here
    copy = one.file.read_bytes()
    together = put_together(tmp_path)
    assert all(together.finished("jade", "toy", "h", name, 0) for name in "abcd")
    assert [json.loads(line)["id"] for line in main.file.read_text().splitlines()] == ["a", "b", "c", "d"]
    one.file.write_bytes(copy)  # as if rank 0 had died between adding and removing
    put_together(tmp_path)
    assert len(main.file.read_text().splitlines()) == 4 and [*tmp_path.glob("records.rank*")] == []
    late = RecordStore(tmp_path, ".rank1of2")
    assert late.finished("jade", "toy", "h", "d", 0) and late.file.name == "records.rank1of2.jsonl"
    late.add(record("a", "no"))
    late.close()
    found = put_together(tmp_path).get("jade", "toy", "h", "a", 0)
    assert found is not None and found.answer == "no", "the last line of a question counts"


def test_a_share_that_is_not_made_of_records_is_named(tmp_path: Path) -> None:
    (tmp_path / "records.rank0of2.jsonl").write_text("nonsense\n")
    with pytest.raises(ConfigError, match=r"records\.rank0of2\.jsonl, line 1 is no record"):
        put_together(tmp_path)
