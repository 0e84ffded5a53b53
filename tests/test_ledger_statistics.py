"""What a ledger holds, by hand."""

from pathlib import Path

import pytest

from agents.errors import LedgerError
from evaluation.ledger_statistics import ledger_report, ledger_statistics
from graphs.ledger import LedgerWriter
from tests.test_rollout_metrics import runs


def test_counts_by_hand(tmp_path: Path) -> None:
    found = ledger_statistics(runs())
    assert found == {
        "runs": 3, "calls": 4, "retrievals": 1, "prompt_tokens": 3 + 4 + 5 + 3, "response_tokens": 4 + 2 + 2 + 4,
        "questions": 2, "outcomes": {"truncated": 1, "ok": 1, "crashed": 1},
        "workflows": {"QDS": pytest.approx(2 / 3), "R,AG": pytest.approx(1 / 3)},
        "roles": {
            "AG": {"calls": 1, "valid": 0.0, "response_tokens": 2.0},
            "document_selector": {"calls": 1, "valid": 1.0, "response_tokens": 2.0},
            "planner": {"calls": 2, "valid": 1.0, "response_tokens": 4.0},
        },
        "policies": {"": 3},
    }  # fmt: skip
    for number, run in enumerate(runs()):
        LedgerWriter(tmp_path, f"s{number}").close(run)
    report = ledger_report(tmp_path)
    assert {name: report[name] for name in found} == found
    assert report["files"] == 3 and report["bytes"] == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert ledger_report(tmp_path / "s1.jsonl")["runs"] == 1


def test_nothing_recorded() -> None:
    found = ledger_statistics([])
    assert found["runs"] == 0 and found["workflows"] == {} and found["roles"] == {}
    with pytest.raises(LedgerError):
        ledger_report(Path("/nowhere"))
