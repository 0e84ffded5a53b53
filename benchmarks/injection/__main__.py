"""Print what every hostile case tried and what happened, or, with --obedience, how often the model obeys.

python -m benchmarks.injection                       # every case at every door; no model is loaded
python -m benchmarks.injection --obedience --threads 1
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.injection.cases import load_cases
from benchmarks.injection.families import families
from benchmarks.injection.suite import CHECKS, Outcome, run_suite


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the table of categories: cases, how many held at each check, and how many questions were refused."""
    lines = [f"| category | cases | {' | '.join(CHECKS)} | question refused |", "|---|" + "---|" * (len(CHECKS) + 2)]
    categories = list(dict.fromkeys(outcome.case.category for outcome in outcomes))
    for category in [*categories, "all"]:
        those = [item for item in outcomes if category in (item.case.category, "all")]
        held = [f"{sum(not item.faults[check] for item in those)}" for check in CHECKS]
        refused = sum(item.said["neighbour"].startswith("question refused") for item in those)
        lines.append(f"| {category} | {len(those)} | {' | '.join(held)} | {refused} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--obedience", action="store_true", help="ask the real model; minutes")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of the model")
    parser.add_argument("--answers", default="", help="with --obedience: write every answer to this JSONL file")
    parser.add_argument("--category", default="", help="only the cases of one category")
    given = parser.parse_args()
    if given.obedience:
        from benchmarks.injection.obedience import run

        run(given)
        return
    cases = [case for case in load_cases() if given.category in ("", case.category)]
    print(f"templates: {', '.join(families())}\n")
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run_suite(cases, Path(folder), on_done=lambda outcome: print(outcome.line(), flush=True))
    print(f"\n{summary(outcomes)}")
    sys.exit(0 if all(outcome.held for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
