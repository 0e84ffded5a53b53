"""Every option of an evaluation, with its default and what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from agents.errors import ConfigError
from evaluation.dataset import DATASETS

CHOICES = {
    "decoding": ("auto", "free", "constrained"),
    "select": ("role", "full"),
    "record": ("on", "off"),
    "lacking": ("refuse", "allow"),
    "retriever": ("exact", "hnsw", "bm25", "hybrid"),
    "dtype": ("auto", "bf16", "fp16", "fp32"),
}
"""Option → what it may be."""


@dataclass
class EvalConfig:
    """Systems side by side on the same questions: same model, same retriever, same decoding budget for all.

    A system is what answers, then optionally whom: NAME[@ADAPTER]. NAME is "jade" (the planner decides), a forced plan
    such as "AG" (closed book), "R,AG", "QR,R,DS,AG", "QDS" or "QDP/R,AG", "solo" (one role searches in a loop),
    "oracle" (reads the gold passages), or your graph as package.module:name. ADAPTER is a folder, the
    id of the MLflow run that logged one, "none" for the bare model, or role=folder pairs such as
    "planner=runs/a;*=runs/b"; without it, the shipped adapter if there is one. Written "other" or "other:ADAPTER", it
    speaks on the second base model, `other`.
    """

    derived: ClassVar[tuple[str, ...]] = ()
    """Options that follow from others and are not given."""
    systems: list[str] = field(default_factory=lambda: ["R,AG", "jade"])
    """What is compared, such as --systems "['R,AG', 'jade@none', 'jade@runs/ppo/adapter']"."""
    baseline: str | None = None
    """System that the others are compared with, as written in `systems`; none = the first."""
    sets: list[str] = field(default_factory=lambda: list(DATASETS))
    """Bundled sets whose dev questions are asked, such as --sets "['nq', 'hotpotqa']"; each needs its index (`jade
    index --dataset NAME`). [] asks only `data`."""
    sample: int | None = 50
    """Questions of each set, drawn by a hash of their ids: the same ones every time; none = all."""
    sample_seed: int = 0
    """Key of the sample."""
    data: str | None = None
    """Your own questions with gold answers: JSON Lines of {question, answers} or a public format, or such a file on the
    hub as hf://datasets/OWNER/NAME/PATH; needs `index`."""
    index: str | None = None
    """Collection that is searched for all sets, such as "starter" or your own; none = each set's own."""
    lacking: str = "refuse"
    """What to do where an index lacks gold passages of a set: refuse, or allow (they then count as not found)."""
    retriever: str = "exact"
    """Retrieval mode: exact, hnsw, bm25 or hybrid."""
    embedder: str | None = None
    """Embedder of the index; none = the embedded one."""
    top_k: int = 5
    """Passages a search."""
    model: str | None = None
    """Base model: a folder or hub id; none = the embedded one."""
    server: str | None = None
    """Address of a llama.cpp or vLLM server that runs `model`, which then is not loaded here; adapters need vLLM. Plans
    get no exact probabilities then. JADE_SERVER_KEY holds its key, if it wants one."""
    other: str | None = None
    """Second base model, for roles whose adapter is written "other" (as it is) or "other:ADAPTER"."""
    decoding: str = "auto"
    """free, constrained (only what the grammars allow is sampled), or auto: constrained where an untuned model plays a
    role in any of the systems. The same for all, since formats that the grammars mend must not decide a comparison."""
    temperature: float = 0.0
    """0 = greedy."""
    seed: int = 0
    """Key of all random numbers."""
    seeds: int = 1
    """Runs of each question, with seeds from `seed` on; more than one needs a temperature above 0."""
    max_depth: int = 2
    """Deepest decomposition, 0 to 2."""
    max_turns: int | None = None
    """Most turns of a run; none = no limit."""
    max_retrievals: int | None = None
    """Most retrievals of a run; none = no limit."""
    max_new_tokens: int | None = None
    """Cap on every role's own token budget."""
    select: str = "role"
    """What a role sees of a run: role (its own view) or full (everything, an ablation)."""
    plan_questions: int = 8
    """Questions of each set whose plans get exact probabilities under the planner, where it decides; 0 = none."""
    output: str = "runs/eval"
    """Folder of records.jsonl, report.json, report.md, figures/ and ledger/. Run the same command again after an
    interrupt: what is finished is not asked again."""
    record: str = "on"
    """Whether runs are recorded token by token in <output>/ledger: on or off."""
    in_flight: int = 64
    """Most questions that are answered at the same time."""
    level: float = 0.95
    """Coverage of the intervals; 1 − level is what p must be below for a verdict, and what the detectable difference is
    held to."""
    resamples: int = 10_000
    """Bootstrap samples, and permutations."""
    dtype: str = "auto"
    """auto, bf16, fp16 or fp32."""
    device: str = "auto"
    """auto, cpu, cuda."""
    threads: int | None = None
    """CPU threads."""
    experiment: str | None = "jade-eval"
    """MLflow experiment; none = not tracked."""

    def __post_init__(self) -> None:
        """Refuse impossible values by name."""
        for name in ("sample", "seeds", "top_k", "in_flight", "resamples", "threads", "max_turns", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                every = ", or none for all questions" if name == "sample" else ""
                raise ConfigError(f"{name}={value}; must be at least 1{every}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        for name, low, high in (("max_depth", 0, 2), ("temperature", 0.0, 5.0), ("plan_questions", 0, 1_000_000)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}={getattr(self, name)}; must be from {low} to {high}")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}; must be at least 0")
        if not 0 < self.level < 1:
            raise ConfigError(f"level={self.level}; must lie between 0 and 1, such as 0.95")
        if self.seeds > 1 and self.temperature == 0:
            raise ConfigError(
                f"seeds={self.seeds} with temperature 0: greedy runs of a question are all alike; give --temperature 1"
            )
        self._check_lists()

    def _check_lists(self) -> None:
        for name in ("systems", "sets"):
            given = getattr(self, name)
            twice = sorted({item for item in given if given.count(item) > 1})
            if twice:
                raise ConfigError(f"{name} names {twice} twice")
        if not self.systems:
            raise ConfigError("systems is empty; name at least one, such as --systems \"['jade']\"")
        if self.baseline is not None and self.baseline not in self.systems:
            raise ConfigError(f"baseline={self.baseline!r} is not among the systems: {self.systems}")
        if not self.sets and self.data is None:
            raise ConfigError(f"no questions: give --sets (among {', '.join(DATASETS)}) or --data FILE")
        if self.data is not None and self.index is None:
            raise ConfigError("data is given without an index; give --index COLLECTION (`jade index FOLDER`)")

    @property
    def reference(self) -> str:
        """Return the system that the others are compared with."""
        return self.baseline or self.systems[0]

    def options(self) -> dict[str, Any]:
        """Return the per-call options that all systems share (`graphs.options.Options`), those in force only."""
        names = ("temperature", "max_depth", "max_turns", "max_retrievals", "max_new_tokens", "select", "record")
        found: Mapping[str, Any] = {name: getattr(self, name) for name in names}
        return {name: value for name, value in found.items() if value is not None}
