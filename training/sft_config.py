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
    datasets: list[str] = field(default_factory=lambda: ["nq", "hotpotqa", "musique"])
    """Bundled sets whose train questions are searched for; each needs its index (`jade index --dataset`)."""
    index: str | None = None
    """One collection to search for all sets, such as "starter"; none = each set's own index."""
    per_role: int = 600
    """Most rows a role."""
    questions_per_set: int = 600
    """Most questions of a set that are searched for."""
    held_out: int = 24
    """Rows a role that are kept from training, for validity per role."""
    top_k: int = 5
    """Passages a search; the graph that uses the adapter should use the same."""
    rank: int = 16
    """LoRA rank."""
    alpha: int = 32
    """LoRA alpha; the update is scaled by alpha / rank."""
    first_layer: int | None = None
    """Lowest layer with an adapter; none = the upper third only."""
    targets: list[str] = field(default_factory=lambda: list(TARGETS))
    """Linear modules that get an adapter."""
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
        unknown = [role for role in self.role_weights if role not in ROLES]
        if unknown:
            raise ConfigError(f"role_weights names unknown roles {unknown}; allowed: {', '.join(ROLES)}")
