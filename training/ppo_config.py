"""Every option of `python -m training.ppo`, documented below its field; impossible values are refused by name.

The defaults were measured on the embedded 135M model from its warm start (docs/results.md); `configs/nq.yaml` holds
what the adapter that ships was trained with; `configs/paper.yaml` holds the values of the released code, which
fine-tunes a 7B model whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.errors import ConfigError
from training.adapter import TARGETS

ONE_HOP = ("nq", "popqa", "ambigqa")
"""Bundled sets whose questions need no decomposition."""
CHOICES: dict[str, tuple[object, ...]] = {
    "estimator": ("tree_gae", "terminal_gae", "broadcast", "loo"),
    "train": ("all", "planner", "executors"),
    "critic": ("head", "adapter"),
    "kl_in": ("loss", "reward"),
    "whiten": ("batch", "none"),
    "weights": ("trajectory", "token"),
    "schedule": ("constant", "linear", "cosine"),
    "on_alarm": ("stop", "rollback", "continue"),
    "decoding": (None, "free", "constrained"),
    "select": ("role", "full"),
    "dtype": ("auto", "bf16", "fp16", "fp32"),
}
"""Field → allowed values."""


@dataclass
class PPOConfig:
    """Joint PPO of planner and executors over recorded graph executions."""

    # --- what is trained, and on what
    output: str = "runs/ppo"
    """Folder of everything the run leaves: adapter, checkpoint, ledger segments, policies."""
    model: str | None = None
    """Base model: a folder or hub id; none = the embedded one."""
    adapter: str | None = None
    """Adapter folder that PPO starts from, and its reference; none = the base with a fresh adapter."""
    train: str = "all"
    """Who learns: all, planner, executors. Frozen roles are played by the start adapter."""
    datasets: list[str] = field(default_factory=lambda: ["nq"])
    """Bundled sets with an index; iterations take turns, since one update needs one environment."""
    graph: str | None = None
    """Your own graph as module:name: a compiled graph, a recorded one, or a function returning one. A function with a
    parameter `retriever` can do without `data`: it is trained on the questions of `datasets`, over their indexes."""
    data: str | None = None
    """Your own questions: a file with question and answers; used with `graph`, or in place of `datasets`' questions."""
    score: str | None = None
    """Your own score as module:function (answer, golds) → number; none = token F1, exact match for yes/no golds."""
    ledger: str | None = None
    """Replay this ledger file or folder instead of collecting."""
    answers: str | None = None
    """File with gold answers for `ledger`, joined by question id, else by question; none = the sets' train files."""
    resume: bool = True
    """Go on from the checkpoint in `output` if there is one; false refuses such a folder."""
    # --- collecting
    iterations: int = 24
    """Iterations: collect, score, update, log, checkpoint."""
    questions: int = 8
    """Questions of one iteration."""
    runs: int = 8
    """Executions of each question; `loo` needs at least 2."""
    in_flight: int = 64
    """Most executions at once."""
    temperature: float = 0.8
    """τ of sampling, and of every log-probability of the update."""
    decoding: str | None = None
    """free or constrained (only what the grammars allow is sampled); none = the graph's default, free in JADE's."""
    select: str = "role"
    """What a role sees: its own view, or everything (ablation)."""
    max_depth: int | None = None
    """Deepest decomposition; 1 is what the released code does. none = 1, but 0 where `datasets` asks questions of one
    hop alone (nq, popqa, ambigqa), whose executions take a fifth of the time then."""
    max_turns: int | None = 8
    """Budget of turns of one execution."""
    max_retrievals: int | None = 8
    """Budget of retrievals of one execution."""
    server: str | None = None
    """Address of a vLLM server that runs `model` and samples in place of the model here; it is handed each new adapter,
    and must see `output` under the same path. JADE_SERVER_KEY holds its key, if it wants one."""
    workflow: str | None = None
    """Force a plan, such as "R,AG"; then no planner is trained."""
    top_k: int = 3
    """Passages a search."""
    # --- reward
    alpha: float = 0.0
    """Price α of three or more extra turns; where the controller begins, if there is a target."""
    beta: float = 0.0
    """Price β of three or more retrievals."""
    target_turns: float | None = None
    """Adaptive controller: hold the mean of 1 + min(turns − 1, 3) at or below this by moving α after each iteration,
    from `alpha` on; none = α stays."""
    target_retrievals: float | None = None
    """The same for the mean of min(retrievals, 3), by moving β from `beta` on; none = β stays."""
    dual_lr: float = 0.1
    """Step of α and β for each turn or retrieval above (or below) the target."""
    alpha_max: float = 1.0
    """Highest α that the controller may reach."""
    beta_max: float = 1.0
    """Highest β that the controller may reach."""
    format_penalty: float = 1.0
    """Price p of one invalid response, paid by that call alone (released code: 2)."""
    permute_rewards: bool = False
    """Control experiment: give each question the rewards of another one of the batch."""
    # --- credit
    estimator: str = "loo"
    """tree_gae, terminal_gae (the paper), broadcast (released code), loo (no critic)."""
    gamma: float = 1.0
    """Discount γ per call along a path."""
    lam: float = 0.95
    """λ of generalised advantage estimation."""
    weights: str = "trajectory"
    """Every trajectory counts the same, or every token."""
    whiten: str = "batch"
    """Advantages to mean 0 and variance 1 over the batch, or none."""
    # --- update
    lr: float = 3e-4
    """Peak learning rate of the adapter."""
    critic_lr: float = 1e-3
    """Learning rate of the value head (and of the critic's adapter)."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    schedule: str = "linear"
    """Learning rate after the warm-up: constant, linear, cosine (to 0 at the last iteration)."""
    warmup: int = 2
    """Iterations of linear warm-up."""
    critic_warmup: int = 1
    """First iterations in which only the critic learns."""
    epochs: int = 1
    """Passes over a batch."""
    minibatches: int = 4
    """Optimiser steps of one pass."""
    token_budget: int = 4096
    """Most tokens of one forward and backward pass, padding included. This is gradient accumulation: a minibatch adds
    up the gradients of as many passes as it needs before its one optimiser step, so a smaller budget saves memory and
    changes nothing else."""
    gradient_checkpointing: bool = False
    """Keep only what enters each trained layer and compute the layer again going backward: the same gradients, less
    memory, about a third more time."""
    clip: float = 0.2
    """ε of the clipped ratio."""
    value_clip: float | None = 0.5
    """Most change of a value in one update that the value loss rewards; none = unclipped."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    omega_cap: float = 2.0
    """Cap of the importance weight exp(old − μ) of older recorded runs."""
    kl: float = 0.01
    """Coefficient of the KL towards the start adapter."""
    kl_in: str = "loss"
    """Whether that KL stands in the loss, or in each call's own reward."""
    entropy: float = 0.0
    """Coefficient of the entropy bonus."""
    target_kl: float | None = 0.05
    """End the update when KL(old ‖ new) of a minibatch, in nats a token, exceeds this; none = never."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; adapter and critic apart."""
    critic: str = "head"
    """head: a linear head on the policy's hidden states; adapter: its own small adapter and head."""
    critic_rank: int = 4
    """LoRA rank of the critic's own adapter."""
    # --- adapter
    rank: int = 16
    """LoRA rank of a fresh adapter; `adapter` keeps its own, and another value beside it is refused, as for the next
    three."""
    lora_alpha: int = 32
    """LoRA alpha of a fresh adapter."""
    first_layer: int | None = None
    """Lowest layer of a fresh adapter; none = the upper third only."""
    targets: list[str] = field(default_factory=lambda: list(TARGETS))
    """Linear modules of a fresh adapter, and of the critic's own one."""
    # --- what may be trained on
    parity_mean: float | None = None
    """Most mean |Δ log-probability| of a call recomputed by the policy that sampled; none = 1e-4 fp32, 0.06 bf16."""
    parity_total: float | None = None
    """Most |Σ Δ| of a call; none = 0.5 fp32, 1.5 bf16."""
    max_versions: int = 4
    """Most updates between the policy that sampled and the one that learns."""
    max_drift: float = 0.3
    """Most mean |old − μ| of a run."""
    # --- watching
    eval_every: int = 10
    """Iterations between evaluations; 0 = never."""
    eval_sample: int = 100
    """Dev questions of each set, answered greedily."""
    eval_data: str | None = None
    """Held-out questions for `data`; none = every tenth question of `data` is held out."""
    interference_rows: int = 32
    """Role interference: calls of each role whose policy gradients are compared at each evaluation; 0 = never."""
    traces: int = 20
    """Executions of an iteration shown in MLflow's trace view."""
    on_alarm: str = "stop"
    """stop, rollback (to the last healthy checkpoint, which is from before the window of an alarm that has one, at half
    the learning rate; after a topology alarm also at half of the controller's prices), or continue."""
    alarm_entropy: float = 0.05
    """Entropy alarm: below this share of the first iteration's."""
    alarm_topology: float = 0.98
    """Topology alarm: one topology has this share for `alarm_window` iterations, and had less at first."""
    alarm_gap: float = 0.03
    """Reward-without-accuracy alarm: between two windows what is optimised (reward, and formats) rose by this, while
    token F1 fell by this and by more than chance explains, on the sampled or on the held-out questions."""
    alarm_window: int = 5
    """Iterations of a window."""
    max_rollbacks: int = 3
    """After so many rollbacks the run stops."""
    # --- the machine
    seed: int = 0
    """Key of everything random."""
    dtype: str = "auto"
    """Of the frozen base: auto, bf16, fp16, fp32. What is trained is always fp32."""
    device: str = "auto"
    """auto, cpu, cuda."""
    threads: int | None = None
    """CPU threads."""
    keep_policies: int = 5
    """Adapters of the last updates that are kept for the replay of older runs."""
    experiment: str = "jade-ppo"
    """MLflow experiment."""
    parent: str | None = None
    """Id of the MLflow run that this one is nested in; none = it stands by itself."""

    @property
    def depth(self) -> int:
        """Return the deepest decomposition."""
        if self.max_depth is not None:
            return self.max_depth
        one_hop = self.graph is None and self.data is None and set(self.datasets) <= set(ONE_HOP)
        return 0 if one_hop else 1

    def __post_init__(self) -> None:
        """Refuse impossible values by name."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r}; allowed: {', '.join(map(str, allowed))}")
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}; must be at least 1")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name}={value}; must be from {low:g} to {high:g}")
        for name in ("lr", "critic_lr", "temperature", "gamma", "clip", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)}; must be above 0")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.estimator == "loo" and self.runs < 2 and self.ledger is None:
            raise ConfigError(
                f"estimator=loo with runs={self.runs}; a leave-one-out baseline needs runs of 2 or more; "
                "or take --estimator tree_gae"
            )
        if self.graph is None and not self.datasets:
            raise ConfigError("datasets is empty; name at least one bundled set, or give graph and data")
        if self.workflow is not None and self.train == "planner":
            raise ConfigError("workflow is forced, so no planner speaks; train executors, or drop one of the two")
        if self.answers is not None and self.ledger is None:
            raise ConfigError("answers belongs to ledger; give the ledger to replay, or data for your own questions")
        for price, target in (("alpha", "target_turns"), ("beta", "target_retrievals")):
            if getattr(self, target) is None:
                continue
            if self.ledger is not None:
                raise ConfigError(f"{target} steers what is collected, and a ledger is replayed; drop one of the two")
            first, highest = getattr(self, price), getattr(self, f"{price}_max")
            if first > highest:
                raise ConfigError(
                    f"{price}={first} is where the controller begins; it must be at most {highest:g}, {price}_max"
                )


_AT_LEAST_ONE = (
    "iterations", "questions", "runs", "in_flight", "top_k", "epochs", "minibatches", "token_budget", "rank",
    "lora_alpha", "critic_rank", "eval_sample", "keep_policies", "alarm_window",
)  # fmt: skip
_HUGE = 1e9
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 5), "gamma": (0, 1), "lam": (0, 1), "clip": (0, 1), "value_clip": (1e-6, _HUGE),
    "alpha": (0, _HUGE), "beta": (0, _HUGE), "format_penalty": (0, _HUGE), "value_coefficient": (0, _HUGE),
    "target_turns": (1, 4), "target_retrievals": (0, 3), "dual_lr": (0, _HUGE), "alpha_max": (0, _HUGE),
    "beta_max": (0, _HUGE),
    "omega_cap": (1, _HUGE), "kl": (0, _HUGE), "entropy": (0, _HUGE), "target_kl": (1e-9, _HUGE),
    "weight_decay": (0, 1), "warmup": (0, _HUGE), "critic_warmup": (0, _HUGE), "max_depth": (0, 2),
    "max_turns": (1, 64), "max_retrievals": (0, 64), "max_versions": (0, _HUGE), "max_drift": (0, _HUGE),
    "parity_mean": (0, _HUGE), "parity_total": (0, _HUGE), "eval_every": (0, _HUGE), "traces": (0, _HUGE),
    "interference_rows": (0, _HUGE),
    "alarm_entropy": (0, 1), "alarm_topology": (0, 1), "alarm_gap": (0, _HUGE), "max_rollbacks": (0, _HUGE),
    "seed": (0, 2**31), "threads": (1, 4096),
}  # fmt: skip
"""Field → lowest and highest value."""
