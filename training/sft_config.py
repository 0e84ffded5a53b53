"""Every option of the warm start, with its default and what it does."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.errors import ConfigError
from agents.roster import ROLES
from training.adapter import TARGETS


@dataclass
class SFTConfig:
    """Warm start of one adapter for all roles."""

    output: str = "runs/sft"
    """Folder of the trained adapter; "<output>/adapter" is what `load_graph(adapter=…)` takes."""
    model: str | None = None
    """Base model: a folder or hub id; none = the embedded one."""
    adapter: str | None = None
    """Adapter folder to go on from, trained under the bare prompts; none = a fresh adapter."""
    # --- rows derived from data
    derived: bool = True
    """Learn from rows derived from the bundled sets; false leaves the ledger alone to learn from."""
    datasets: list[str] = field(default_factory=lambda: ["nq", "hotpotqa", "musique"])
    """Bundled sets whose train questions are searched for; each needs its index (`jade index --dataset`)."""
    plan_sets: list[str] = field(default_factory=lambda: ["2wikimultihopqa"])
    """Bundled sets that give plans and decompositions only: nothing is searched for, so they need no index."""
    index: str | None = None
    """One collection to search for all sets, such as "starter"; none = each set's own index."""
    per_role: int = 600
    """Most rows a role."""
    role_rows: dict[str, int] = field(default_factory=dict)
    """Most rows by role name, where it shall differ from `per_role`."""
    questions_per_set: int = 600
    """Most questions of a set that are searched for."""
    held_out: int = 24
    """Rows a role that are kept from training, for validity per role."""
    top_k: int = 5
    """Passages a search; the graph that uses the adapter should use the same."""
    # --- rejection sampling: the best recorded run of each question
    ledger: str | None = None
    """Ledger file or folder of recorded runs (`python -m training.collect`); none = no rejection sampling."""
    answers: str | None = None
    """File with gold answers for `ledger`, joined by question id, else by question; none = the sets' train files."""
    score: str | None = None
    """Your own score as module:function (answer, golds) → number; none = token F1, exact match for yes/no golds."""
    best_of: int | None = None
    """Runs of a question that compete, the first ones in the ledger; none = all."""
    min_score: float = 0.5
    """Least score of a run that is learned from."""
    cost_turns: float = 0.0
    """α: price of three or more extra turns when runs of a question compete."""
    cost_retrievals: float = 0.0
    """β: price of three or more retrievals when runs of a question compete."""
    # --- adapter and update
    rank: int = 16
    """LoRA rank of a fresh adapter; `adapter` keeps its own, and another value beside it is refused, as for the next
    three."""
    alpha: int = 32
    """LoRA alpha of a fresh adapter; the update is scaled by alpha / rank."""
    first_layer: int | None = None
    """Lowest layer of a fresh adapter; none = the upper third only."""
    targets: list[str] = field(default_factory=lambda: list(TARGETS))
    """Linear modules of a fresh adapter."""
    lr: float = 7e-4
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    warmup: int = 10
    """Steps of linear warm-up; a half cosine to 0 follows."""
    rows_per_step: int = 16
    """Rows of one optimiser step."""
    token_budget: int = 4096
    """Most tokens of one forward and backward pass, padding included."""
    epochs: float = 1.0
    """Passes over the rows."""
    minutes: float | None = None
    """Stop after this many minutes of training, with the schedule stretched to fit; none = all epochs."""
    role_weights: dict[str, float] = field(default_factory=dict)
    """Loss weight by role name; 1 where not named."""
    eval_sets: list[str] = field(default_factory=lambda: ["hotpotqa", "nq"])
    """Bundled sets whose dev questions measure F1 before and after; empty = none."""
    eval_sample: int = 50
    """Dev questions of each such set."""
    seed: int = 0
    """Key of rows, initial adapter and order."""
    dtype: str = "auto"
    """Of the frozen base: auto, bf16, fp16, fp32. The adapter is always fp32."""
    device: str = "auto"
    """auto, cpu, cuda."""
    threads: int | None = None
    """CPU threads."""
    experiment: str = "jade-sft"
    """MLflow experiment."""

    def __post_init__(self) -> None:
        """Refuse impossible values by name."""
        for name in ("per_role", "rank", "alpha", "rows_per_step", "token_budget", "lr", "epochs", "top_k"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)}; must be above 0")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"minutes={self.minutes}; must be above 0, or none for all epochs")
        for name in ("role_weights", "role_rows"):
            unknown = [role for role in getattr(self, name) if role not in ROLES]
            if unknown:
                raise ConfigError(f"{name} names unknown roles {unknown}; allowed: {', '.join(ROLES)}")
        self._check_ledger()
        both = sorted(set(self.datasets) & set(self.plan_sets))
        if both:
            raise ConfigError(f"plan_sets repeats {both} of datasets; name each set once")

    def _check_ledger(self) -> None:
        if self.best_of is not None and self.best_of < 1:
            raise ConfigError(f"best_of={self.best_of}; must be at least 1, or none for all recorded runs")
        if self.ledger is None and (self.answers is not None or not self.derived):
            given = "derived=false" if self.answers is None else "answers"
            raise ConfigError(f"{given} needs a ledger; give --ledger L, recorded by `python -m training.collect`")
