"""Evaluate systems side by side on the benchmarks, with costs, intervals and every failure by name.

    python -m evaluation.evaluate --systems "['R,AG', 'jade@runs/ppo/adapter']" --sets "['nq', 'hotpotqa']"

Everything that can be wrong with systems, sets, gold answers and indexes is found before a model is loaded. Greedy
and with a fixed seed by default; the same command goes on after an interrupt. Started by `accelerate launch`, several
processes share the questions, and the first one reports.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.config import read_config, run_command
from evaluation.evaluate_config import EvalConfig
from evaluation.loading import load_model, load_other, open_retrievers
from evaluation.ranks import ALONE, Ranks, joined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from agents.model import SharedModel
    from agents.passage import Retriever
    from evaluation.bench import Base, Bench
    from evaluation.readiness import Asked
    from evaluation.results import Block
    from evaluation.systems import System

PROGRAM = "python -m evaluation.evaluate"
_log = logging.getLogger("jade.evaluate")


def evaluate(config: EvalConfig, *, dry_run: bool = False, ranks: Ranks = ALONE) -> dict[str, Any] | None:
    """Check, load, ask, report; return the report (None for a dry run, and on all ranks but the first).

    Raises:
        JadeError: As named in its message, before any model is loaded where that can be known.
    """
    systems, sets = check(config)
    if dry_run:
        return None
    retrievers = open_retrievers(config, sets, ranks)
    return measure(config, systems, sets, load_model(config), retrievers, load_other(config), ranks)


def check(config: EvalConfig, *, models: bool = True) -> tuple[list[System], list[Asked]]:
    """Read systems and questions and check all that can be checked without a model; tell how much it is.

    Args:
        config: What is wanted.
        models: Whether the models' folders must be there already.

    Raises:
        JadeError: As named in its message.
    """
    from agents.named import model_folder
    from evaluation.readiness import ready
    from evaluation.systems import decoding_of, read_systems
    from graphs.options import read_options

    for model in (config.model, config.other):
        if models and model is not None:
            model_folder(model)
    systems = read_systems(config.systems, read_options(config.options()), config.model, config.other)
    sets = ready(config)
    total = sum(len(asked.examples) for asked in sets) * len(systems) * config.seeds
    for asked in sets:
        _log.info("%s: %d questions over index %s", asked.name, len(asked.examples), asked.collection)
        for note in asked.notes:
            _log.warning("%s: %s", asked.name, note)
    _log.info("decoding: %s for all%s", decoding_of(config.decoding, systems), _why(config, systems))
    _log.info("%d systems, %d runs", len(systems), total)
    return systems, sets


def measure(
    config: EvalConfig,
    systems: Sequence[System],
    sets: Sequence[Asked],
    shared: Base,
    retrievers: Mapping[str, Retriever],
    other: SharedModel | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any] | None:
    """Ask what has no record yet, and report: into the output folder, and into MLflow; rank 0 alone reports.

    Raises:
        ConfigError: An adapter does not fit the model, or the output folder cannot be written.
        KeyboardInterrupt: Asked to stop; what ended is in the records.
    """
    found = gather(config, systems, sets, shared, retrievers, other, ranks=ranks)
    if found is None:
        return None
    publish(config, found[1])
    return found[1]


def gather(
    config: EvalConfig,
    systems: Sequence[System],
    sets: Sequence[Asked],
    shared: Base,
    retrievers: Mapping[str, Retriever],
    other: SharedModel | None = None,
    program: str = PROGRAM,
    ranks: Ranks = ALONE,
) -> tuple[list[Block], dict[str, Any]] | None:
    """Ask what has no record yet; return every system on every set, and the report (on rank 0, else None).

    Raises:
        ConfigError: As `measure`.
        KeyboardInterrupt: As `measure`.
    """
    from evaluation.asking import planner_views
    from evaluation.bench import Bench
    from evaluation.hindsight import hindsight_of
    from evaluation.report import Sampling, build_report
    from evaluation.sharing import ask_everything
    from evaluation.systems import decoding_of

    bench = Bench(shared, config, retrievers, other, ranks.suffix, decoding_of(config.decoding, systems))
    blocks = ask_everything(bench, systems, sets, ranks)
    if blocks is None:
        return None
    views = planner_views(bench, systems, sets)
    sampling = Sampling(config.level, config.resamples, config.seed)
    report = build_report(blocks, config.reference, sampling, conditions(bench, systems, sets, program))
    report["planner"] = [view.to_json() for view in views]
    report["hindsight"] = hindsight_of(blocks, systems)
    report["hashes"] = {system.label: bench.hashes(system, sets) for system in systems}
    return blocks, report


def publish(
    config: EvalConfig,
    report: Mapping[str, Any],
    sections: Sequence[str] = (),
    more: Mapping[str, Figure] | None = None,
) -> str | None:
    """Write the report and its figures into the output folder, and into MLflow; return the id of the run there.

    Args:
        config: Where to.
        report: What was measured.
        sections: Markdown that goes before the report's own.
        more: File name → further figure.
    """
    output = Path(config.output).expanduser()
    figures = _write(report, output, sections, more or {})
    return None if config.experiment is None else _track(config, report, figures, output)


def conditions(bench: Bench, systems: Sequence[System], sets: Sequence[Asked], program: str) -> dict[str, Any]:
    """Return what the numbers were measured under: model, speakers, indexes, budgets, the command."""
    from graphs.app import code_version

    config, shared = bench.config, bench.shared
    speakers = {}
    for system in systems:
        adapters = {}
        for role in system.folders:
            model, name = bench.speaker(system, role)
            if name or model is not shared:
                adapters[role] = f"{system.folders[role] or 'the model'} ({model.policy_hash(name)})"
        speakers[system.label] = f"{adapters or 'no adapter'}, prompts {system.prompts.style}"
    indexes = {}
    for asked in sets:
        known = bench.retrievers[asked.name].identity
        parts = [f"{key} {known[key]}" for key in ("collection", "mode", "embedder", "content") if key in known]
        indexes[asked.name] = ", ".join([*parts, *asked.notes])
    return {
        "command": f"{program} {_arguments(config)}".strip(),
        "model": _named(shared),
        **({} if bench.other is None else {"other model": _named(bench.other)}),
        "decoding": f"{bench.decoding} for all{_why(config, systems)}",
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


def _why(config: EvalConfig, systems: Sequence[System]) -> str:
    """Return why all decode as they do, where nobody said how."""
    if config.decoding != "auto":
        return ""
    untuned = [system.label for system in systems if not system.trained]
    return f" (an untuned model plays in {', '.join(untuned)})" if untuned else " (all are trained)"


def _named(model: Base) -> str:
    return f"{model.name} (weights {model.weights}, {model.identity['dtype']})"


_BUDGETS = ("max_depth", "max_turns", "max_retrievals", "max_new_tokens", "select")


def _arguments(config: EvalConfig) -> str:
    """Return the command line of everything that is not its default."""
    import shlex

    default, words = type(config)(), []
    for name in (item.name for item in fields(config)):
        value = getattr(config, name)
        if value != getattr(default, name) and name not in config.derived:
            text = str(value)
            plain = not {'"', "$", "`", "\\", "!"} & set(text)
            words += [f"--{name}", f'"{text}"' if "'" in text and plain else shlex.quote(text)]
    return " ".join(words)


def _write(
    report: Mapping[str, Any], output: Path, sections: Sequence[str], more: Mapping[str, Figure]
) -> dict[str, Figure]:
    """Write the report and its figures; return the figures."""
    from evaluation.figures import figures_of
    from evaluation.report_markdown import render

    (output / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (output / "report.md").write_text("\n\n".join([*sections, render(report)]), encoding="utf-8")
    figures = {**figures_of(report), **more}
    (output / "figures").mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(output / "figures" / name, dpi=120)
    _log.info("report: %s", output / "report.md")
    return figures


def _track(config: EvalConfig, report: Mapping[str, Any], figures: Mapping[str, Figure], output: Path) -> str | None:
    from evaluation.report_tracking import log_report, log_systems
    from evaluation.tracking import track

    assert config.experiment is not None
    _log.info("logging to MLflow, experiment %s", config.experiment)
    with track(config.experiment, output.name, config.__dict__) as tracked:
        log_report(tracked, report, figures, output)
        log_systems(tracked, config.experiment, report)
    return tracked.run_id


def log_as(ranks: Ranks) -> None:
    """Begin logging: rank 0 says how far it is, the others only warn, with their rank before it."""
    who = "" if ranks.leads else f"rank {ranks.rank}: "
    logging.basicConfig(level=logging.WARNING, format=f"%(asctime)s {who}%(message)s", datefmt="%H:%M:%S")
    _log.setLevel(logging.INFO if ranks.leads else logging.WARNING)
    if ranks.size > 1:
        _log.info("%d processes share the questions: %s", ranks.size, ranks.named(range(ranks.size)))


def main() -> int:
    """Run from the command line; a user's mistake is one message on standard error."""

    def work() -> int:
        config, dry_run = read_config(EvalConfig, sys.argv[1:], PROGRAM)
        with joined(config.device) as ranks:
            log_as(ranks)
            report = evaluate(config, dry_run=dry_run, ranks=ranks) if ranks.leads or not dry_run else None
        if report is not None:
            from evaluation.report_markdown import summary

            sys.stdout.write(summary(report) + "\n")
        return 0

    return run_command(work, "interrupted; the same command goes on where it stopped")


if __name__ == "__main__":
    sys.exit(main())
