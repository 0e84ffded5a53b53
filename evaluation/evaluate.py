"""Evaluate systems side by side on the benchmarks, with costs, intervals and every failure by name.

    python -m evaluation.evaluate --systems "['R,AG', 'jade@runs/ppo/adapter']" --sets "['nq', 'hotpotqa']"

Everything that can be wrong with systems, sets, gold answers and indexes is found before a model is loaded. Greedy
and with a fixed seed by default; the same command goes on after an interrupt.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.config import read_config, run_command
from evaluation.evaluate_config import EvalConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from agents.model import SharedModel
    from agents.passage import Retriever
    from evaluation.bench import Bench
    from evaluation.readiness import Asked
    from evaluation.systems import System

PROGRAM = "python -m evaluation.evaluate"
_log = logging.getLogger("jade.evaluate")


def evaluate(config: EvalConfig, *, dry_run: bool = False) -> dict[str, Any] | None:
    """Check, load, ask, report; return the report (None for a dry run).

    Raises:
        JadeError: As named in its message, before any model is loaded where that can be known.
    """
    from evaluation.readiness import ready

    systems = _systems(config)
    sets = ready(config)
    total = sum(len(asked.examples) for asked in sets) * len(systems) * config.seeds
    for asked in sets:
        _log.info("%s: %d questions over index %s", asked.name, len(asked.examples), asked.collection)
        for note in asked.notes:
            _log.warning("%s: %s", asked.name, note)
    _log.info("%d systems, %d runs", len(systems), total)
    if dry_run:
        return None
    retrievers = open_retrievers(config, sets)
    return measure(config, systems, sets, load_model(config), retrievers)


def _systems(config: EvalConfig) -> list[System]:
    from evaluation.systems import read_systems
    from graphs.options import read_options

    return read_systems(config.systems, read_options(config.options()), config.model)


def load_model(config: EvalConfig) -> SharedModel:
    """Load the one base model.

    Raises:
        ConfigError, SetupError: It cannot be loaded.
    """
    from agents.model import SharedModel

    def tell(line: str) -> None:
        _log.info("%s", line)

    return SharedModel.load(
        config.model, dtype=config.dtype, device=config.device, threads=config.threads, progress=tell
    )


def open_retrievers(config: EvalConfig, sets: Sequence[Asked]) -> dict[str, Retriever]:
    """Open each collection once, all with one embedder; return set → retriever.

    Raises:
        RetrieverError: An index cannot answer, or was built with another embedder.
    """
    from agents.embedder import open_embedder
    from agents.retriever import open_retriever

    def tell(line: str, done: int = 0, total: int = 0) -> None:
        _log.info("%s", f"{line} {done}/{total}" if total else line)

    embedder = open_embedder(config.embedder, tell)
    opened: dict[str, Retriever] = {}
    for asked in sets:
        if asked.collection not in opened:
            opened[asked.collection] = open_retriever(
                asked.collection,
                mode=config.retriever,  # type: ignore[arg-type]
                k=config.top_k,
                embedder=embedder,
                progress=tell,
            )
    return {asked.name: opened[asked.collection] for asked in sets}


def measure(
    config: EvalConfig,
    systems: Sequence[System],
    sets: Sequence[Asked],
    shared: SharedModel,
    retrievers: Mapping[str, Retriever],
) -> dict[str, Any]:
    """Ask what has no record yet, and report: into the output folder, and into MLflow.

    Raises:
        ConfigError: An adapter does not fit the model, or the output folder cannot be written.
        KeyboardInterrupt: Asked to stop; what ended is in the records.
    """
    from evaluation.asking import answer, planner_views
    from evaluation.bench import Bench
    from evaluation.records import RecordStore, only_writer
    from evaluation.report import Sampling, build_report

    output = Path(config.output).expanduser()
    with only_writer(output):
        store = RecordStore(output)
        bench = Bench(shared, config, retrievers)
        try:
            blocks = answer(bench, store, systems, sets)
            views = planner_views(bench, systems, sets)
        finally:
            store.close()
        sampling = Sampling(config.level, config.resamples, config.seed)
        report = build_report(blocks, config.reference, sampling, conditions(bench, systems, sets))
        report["planner"] = [view.to_json() for view in views]
        figures = _write(report, output)
        if config.experiment is not None:
            _track(config, report, figures, output)
    return report


def conditions(bench: Bench, systems: Sequence[System], sets: Sequence[Asked]) -> dict[str, Any]:
    """Return what the numbers were measured under: model, speakers, indexes, budgets, the command."""
    from graphs.app import code_version

    config, shared = bench.config, bench.shared
    speakers = {}
    for system in systems:
        named = bench.seat(system)
        adapters = {
            role: f"{system.folders[role]} ({shared.policy_hash(name)})" for role, name in named.items() if name
        }
        decoding = bench.options(system)["decoding"]
        speakers[system.label] = f"{adapters or 'no adapter'}, prompts {system.prompts.style}, decoding {decoding}"
    indexes = {}
    for asked in sets:
        known = bench.retrievers[asked.name].identity
        parts = [f"{key} {known[key]}" for key in ("collection", "mode", "embedder", "content") if key in known]
        indexes[asked.name] = ", ".join([*parts, *asked.notes])
    return {
        "command": f"{PROGRAM} {_arguments(config)}".strip(),
        "model": f"{shared.name} (weights {shared.weights}, {shared.identity['dtype']})",
        "temperature": config.temperature,
        "seeds": f"{config.seed} to {config.seed + config.seeds - 1}" if config.seeds > 1 else config.seed,
        "top_k": config.top_k,
        "budgets": ", ".join(f"{key} {getattr(config, key)}" for key in _BUDGETS),
        "level": config.level,
        "resamples": config.resamples,
        "code": code_version(),
        "speakers": speakers,
        "index": indexes,
    }


_BUDGETS = ("max_depth", "max_turns", "max_retrievals", "max_new_tokens", "select")


def _arguments(config: EvalConfig) -> str:
    """Return the command line of everything that is not its default."""
    import shlex

    default, words = EvalConfig(), []
    for name in EvalConfig.__dataclass_fields__:
        value = getattr(config, name)
        if value != getattr(default, name):
            text = str(value)
            plain = not {'"', "$", "`", "\\", "!"} & set(text)
            words += [f"--{name}", f'"{text}"' if "'" in text and plain else shlex.quote(text)]
    return " ".join(words)


def _write(report: Mapping[str, Any], output: Path) -> dict[str, Figure]:
    """Write the report and its figures; return the figures."""
    from evaluation.figures import figures_of
    from evaluation.report_markdown import render

    (output / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (output / "report.md").write_text(render(report), encoding="utf-8")
    figures = figures_of(report)
    (output / "figures").mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(output / "figures" / name, dpi=120)
    _log.info("report: %s", output / "report.md")
    return figures


def _track(config: EvalConfig, report: Mapping[str, Any], figures: Mapping[str, Figure], output: Path) -> None:
    from evaluation.report_tracking import log_report
    from evaluation.tracking import track

    assert config.experiment is not None
    with track(config.experiment, output.name, config.__dict__) as tracked:
        log_report(tracked, report, figures, output)


def main() -> int:
    """Run from the command line; a user's mistake is one message on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    _log.setLevel(logging.INFO)

    def work() -> int:
        config, dry_run = read_config(EvalConfig, sys.argv[1:], PROGRAM)
        report = evaluate(config, dry_run=dry_run)
        if report is not None:
            from evaluation.report_markdown import summary

            sys.stdout.write(summary(report) + "\n")
        return 0

    return run_command(work, "interrupted; the same command goes on where it stopped")


if __name__ == "__main__":
    sys.exit(main())
