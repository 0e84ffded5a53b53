"""Co-adaptation: the document selector and both decompositions on and off, over untuned and over trained executors.

    python -m experiments.coadaptation --sets "['nq', 'musique']" --sample 100

The mismatch meter with other plans (`evaluation.mismatch`; it takes every option of it). The paper's Table 3 says that
the selector costs .61 F1 before training and gains 1.14 after, without intervals; here both stand with theirs, and so
does the change between them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from evaluation.mismatch import run_mismatch
from evaluation.mismatch_config import MismatchConfig


@dataclass
class CoadaptationConfig(MismatchConfig):
    """Plans on and off, before and after training; by default no planner decides anything but one column."""

    planners: list[str] = field(default_factory=lambda: ["trained=shipped"])
    """Who plans in the columns beside the fixed plans."""
    also: list[str] = field(default_factory=lambda: ["R,DS,AG", "QDS/R,AG", "QDP/R,AG"])
    """The plans that are compared with `fixed`."""
    output: str = "runs/coadaptation"
    """Folder of the records and the report; the same command goes on from it."""
    experiment: str | None = "jade-coadaptation"
    """MLflow experiment; none = not tracked."""


def main() -> int:
    """Run from the command line."""
    return run_mismatch(CoadaptationConfig, "python -m experiments.coadaptation")


if __name__ == "__main__":
    sys.exit(main())
