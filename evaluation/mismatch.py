"""The mismatch meter: every planner over every set of executors, by switching adapters on one base.

    python -m evaluation.mismatch --sets "['nq', 'musique']" --sample 100
    python -m evaluation.mismatch --planners "['start=shipped', 'alone=runs/p/adapter', 'joint=runs/j/adapter']" \
        --executors "['start=shipped', 'alone=runs/e/adapter', 'joint=runs/j/adapter']"

It asks as `python -m evaluation.evaluate` does (same records, resumable), then prints the matrix and says in a
sentence for each set of executors whether planning helps it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from evaluation.config import read_config, run_command
from evaluation.evaluate import check, gather, log_as, publish
from evaluation.loading import load_model, load_other, open_retrievers
from evaluation.mismatch_config import MismatchConfig
from evaluation.ranks import ALONE, Ranks, joined

PROGRAM = "python -m evaluation.mismatch"


def measure_mismatch(
    config: MismatchConfig,
    systems: Sequence[Any],
    sets: Sequence[Any],
    shared: Any,
    retrievers: Any,
    other: Any = None,
    program: str = PROGRAM,
    ranks: Ranks = ALONE,
) -> dict[str, Any] | None:
    """Ask what has no record yet; return the evaluation's report with "mismatch" in it, written and tracked.

    Args:
        config: Who plans and who executes, and how they are asked.
        systems: Of `config.systems`.
        sets: What is asked.
        shared: The base model.
        retrievers: Set → retriever.
        other: The second base model.
        program: The command that the report names.
        ranks: The processes that share the questions; all but rank 0 return None.

    Raises:
        ConfigError: An adapter does not fit, or the output folder cannot be written.
        KeyboardInterrupt: Asked to stop; what ended is in the records.
    """
    from evaluation.mismatch_report import matrix_figure, mismatch_of, plans_figure, render_mismatch

    found = gather(config, systems, sets, shared, retrievers, other, program, ranks)
    if found is None:
        return None
    blocks, report = found
    report["mismatch"] = mismatch_of(config, blocks, report)
    figures = {"mismatch.png": matrix_figure(report["mismatch"])}
    if report["mismatch"]["plans"]:
        figures["plans.png"] = plans_figure(report["mismatch"])
    publish(config, report, [render_mismatch(report["mismatch"])], figures)
    return report


def run_mismatch(kind: type[MismatchConfig], program: str) -> int:
    """Run from the command line; a user's mistake is one message on standard error.

    Args:
        kind: The options and their defaults.
        program: Name of the command.
    """

    def work() -> int:
        from evaluation.mismatch_report import render_mismatch

        config, dry_run = read_config(kind, sys.argv[1:], program)
        with joined(config.device) as ranks:
            log_as(ranks)
            systems, sets = check(config)
            if not dry_run:
                retrievers = open_retrievers(config, sets, ranks)
                models = load_model(config), load_other(config)
                report = measure_mismatch(config, systems, sets, models[0], retrievers, models[1], program, ranks)
                if report is not None:
                    sys.stdout.write(render_mismatch(report["mismatch"]) + "\n")
        return 0

    return run_command(work, "interrupted; the same command goes on where it stopped")


def main() -> int:
    """Run `python -m evaluation.mismatch`."""
    return run_mismatch(MismatchConfig, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
