"""Every metric that JADE logs: name → formula, unit. `evaluation.tracking` refuses names that are not here.

A name in angle brackets stands for one path segment: `rollout/valid/<role>` covers
`rollout/valid/planner`. MLflow allows no comma in a name, so a plan `R,AG` is written `R-AG`. Means are over
trajectories unless a role is named, then over that role's calls.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from agents.errors import ConfigError


class Metric(NamedTuple):
    """What a number means."""

    formula: str
    unit: str


METRICS: dict[str, Metric] = {
    # what the current policy does, per iteration
    "rollout/reward": Metric("mean R = score − turn_cost − retrieval_cost", "score"),
    "rollout/reward_std": Metric("standard deviation of R", "score"),
    "rollout/score": Metric("mean score(answer, golds)", "score"),
    "rollout/objective": Metric("mean of R + the mean f_c of the run's calls: what is optimised, KL left out", "score"),
    "rollout/f1": Metric("mean token F1 of rewarded runs with gold answers, whatever the score", "1"),
    "rollout/turn_cost": Metric("mean α·min(turns − 1, 3)/3", "score"),
    "rollout/retrieval_cost": Metric("mean β·min(retrievals, 3)/3", "score"),
    "rollout/reward/<role>": Metric("mean R of the runs in which the role spoke", "score"),
    "rollout/score/<role>": Metric("mean score of the runs in which the role spoke", "score"),
    "rollout/turn_cost/<role>": Metric("mean turn_cost of the runs in which the role spoke", "score"),
    "rollout/retrieval_cost/<role>": Metric("mean retrieval_cost of the runs in which the role spoke", "score"),
    "rollout/format/<role>": Metric("mean f_c ∈ {0, −p}", "score"),
    "rollout/valid/<role>": Metric("valid responses / responses", "share"),
    "rollout/truncated/<role>": Metric("responses that hit max_new_tokens / responses", "share"),
    "rollout/length/<role>": Metric("mean response length", "tokens"),
    "rollout/calls/<role>": Metric("calls of the role / runs", "calls a run"),
    "rollout/turns": Metric("mean turns; QDS 1 + Σ children, QDP 1 + max children", "turns"),
    "rollout/retrievals": Metric("mean executed R nodes, cache hits included", "retrievals"),
    "rollout/charged_turns": Metric("mean 1 + min(turns − 1, 3) of rewarded runs; target_turns holds it", "turns"),
    "rollout/charged_retrievals": Metric(
        "mean min(retrievals, 3) of rewarded runs; target_retrievals holds it", "retrievals"
    ),
    "rollout/calls": Metric("mean calls", "calls"),
    "rollout/prompt_tokens": Metric("mean prompt tokens of a run", "tokens"),
    "rollout/generated_tokens": Metric("mean response tokens of a run", "tokens"),
    "rollout/topology/<topology>": Metric("runs whose root chose it / runs", "share"),
    "rollout/plan/<plan>": Metric("nodes that chose it / planned nodes", "share"),
    "rollout/plan_entropy": Metric("−Σ p log p of root plan shares", "nat"),
    "rollout/depth": Metric("mean deepest decomposition", "levels"),
    "rollout/outcome/<outcome>": Metric("runs with the outcome / runs", "share"),
    "rollout/dropped/<reason>": Metric("runs left out of the update, by reason", "runs"),
    "rollout/dont_know": Metric("answers that decline to answer / answers", "share"),
    "rollout/empty_selection": Metric("empty DS selections / valid DS selections", "share"),
    "rollout/copy": Metric("answers copied from the question / answers", "share"),
    "rollout/budget_hit": Metric("runs that met a budget / runs", "share"),
    "rollout/dropped_documents": Metric("mean documents cut from prompts to fit the context", "documents a run"),
    "rollout/trajectories": Metric("runs collected or replayed", "runs"),
    # one update
    "update/policy_loss": Metric("K·Σ w·ℓ, ℓ = −ω·min(ρA, clip(ρ, 1 ± ε)A)", "1"),
    "update/value_loss": Metric("½·max((V − G)², (V_clip − G)²), mean over calls", "score²"),
    "update/format_value_loss": Metric("the same on the format output of the critic", "score²"),
    "update/total_loss": Metric("policy_loss + c_V·(both value losses; none under loo) + c_KL·kl − c_H·entropy", "1"),
    "update/entropy": Metric("Σ w·H(π over M)", "nat a token"),
    "update/entropy/<role>": Metric("the same over the role's tokens", "nat a token"),
    "update/kl": Metric("Σ w·(e^d − d − 1), d = ref − new", "nat a token"),
    "update/kl/<role>": Metric("the same over the role's tokens", "nat a token"),
    "update/old_new_kl": Metric("Σ w·(e^d − d − 1), d = new − old, over the last epoch begun", "nat a token"),
    "update/clip_fraction": Metric("Σ w·[|ρ − 1| > ε]", "share"),
    "update/clip_fraction/<role>": Metric("the same over the role's tokens", "share"),
    "update/ratio_max": Metric("max ρ", "1"),
    "update/omega": Metric("Σ w·min(2, exp(old − μ))", "1"),
    "update/advantage/<role>": Metric("mean A_c + A^f_c before whitening", "score"),
    "update/advantage_std/<role>": Metric("its standard deviation", "score"),
    "update/return/<role>": Metric("mean G_c", "score"),
    "update/value/<role>": Metric("mean V_c of the critic; like all that is said of it, not under loo", "score"),
    "update/explained_variance": Metric("1 − Var(G − V)/Var(G) over calls", "1"),
    "update/explained_variance/<role>": Metric("the same over the role's calls", "1"),
    "update/explained_variance_format": Metric("the same of the format output", "1"),
    "update/correct_logprob": Metric("mean log π of responses in runs with score > 0", "nat a token"),
    "update/gradient_norm": Metric("norm before clipping", "1"),
    "update/learning_rate": Metric("of the policy", "1"),
    "update/critic_learning_rate": Metric("of the value head", "1"),
    "update/rows": Metric("calls trained on", "calls"),
    "update/tokens": Metric("response tokens with mask 1", "tokens"),
    "update/padding": Metric("padded / all positions", "share"),
    "update/epochs": Metric("PPO epochs run before the target-KL stop", "epochs"),
    "update/interference/<role>/<other>": Metric(
        "cosine of the two roles' policy gradients on the adapter, over at most interference_rows calls of each", "1"
    ),
    "update/alpha": Metric("α of this iteration's rewards; with target_turns it moves after each", "score"),
    "update/beta": Metric("β of this iteration's rewards; with target_retrievals it moves after each", "score"),
    # replay
    "replay/parity_mean": Metric("mean |recomputed − recorded log μ| over tokens", "nat"),
    "replay/parity_call": Metric("max |Σ (recomputed − recorded log μ)| over calls", "nat"),
    "replay/staleness": Metric("mean |old − μ|", "nat"),
    "replay/versions": Metric("largest policy version gap in the batch", "versions"),
    "replay/refused/<reason>": Metric("runs refused, by reason", "runs"),
    # warm start
    "sft/loss": Metric("weighted mean −log π of response tokens", "nat a token"),
    "sft/loss/<role>": Metric("the same over the role's rows", "nat a token"),
    "sft/dev_loss": Metric("sft/loss on held-out rows", "nat a token"),
    "sft/valid/<role>": Metric("valid greedy responses / held-out rows", "share"),
    "sft/exact/<role>": Metric("greedy responses equal to the target / held-out rows", "share"),
    "sft/tokens_per_second": Metric("tokens trained on / wall time", "tokens/s"),
    "sft/rows/<role>": Metric("rows of the role", "rows"),
    "sft/learning_rate": Metric("of the policy", "1"),
    # evaluation
    "eval/<dataset>/<metric>": Metric("mean over all questions, failed ones as 0; metrics.ANSWER_METRICS", "1"),
    "eval/<dataset>/<metric>/low": Metric("lower end of its 95 % bootstrap interval", "1"),
    "eval/<dataset>/<metric>/high": Metric("upper end of its 95 % bootstrap interval", "1"),
    "eval/<system>/<dataset>/<metric>": Metric("the same for one of several systems; evaluation.records.METRICS", "1"),
    "eval/<system>/<dataset>/<metric>/low": Metric("lower end of its 95 % bootstrap interval", "1"),
    "eval/<system>/<dataset>/<metric>/high": Metric("upper end of its 95 % bootstrap interval", "1"),
    "eval/regret": Metric("mean oracle R − R, where the best plan is known", "score"),
    "eval/plan_entropy": Metric("entropy of the planner's exact plan probabilities", "nat"),
    # cost and health
    "time/<stage>": Metric(
        "wall time of the stage in this iteration: prefill, decode, batching (rest of the model's work), retrieval, "
        "graph, ledger, score, credit, interference, update, log, eval, checkpoint (of the iteration before)",
        "s",
    ),
    "time/total": Metric("wall time of the iteration: all stages and idle", "s"),
    "time/idle": Metric("time/total − all stages", "s"),
    "time/idle_share": Metric("time/idle / time/total", "share"),
    "speed/tokens_per_second": Metric("prompt + response tokens / collection time", "tokens/s"),
    "speed/update_tokens_per_second": Metric("tokens of all rows × epochs / update time", "tokens/s"),
    "memory/peak": Metric("peak resident (CPU) or allocated (CUDA) memory", "GiB"),
    "alarm/<name>": Metric("1 when raised: nan, entropy, topology, reward_without_accuracy", "1"),
    "ledger/runs": Metric("runs in the iteration's ledger segment, or replayed in it", "runs"),
    "ledger/calls": Metric("their calls", "calls"),
    "ledger/tokens": Metric("their prompt and response tokens", "tokens"),
    "ledger/bytes": Metric("size of the iteration's ledger segment", "bytes"),
}
"""Name, or family of names → formula and unit."""


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"<[a-z]+>", "[^/]+", name))


_PATTERNS = {name: _pattern(name) for name in METRICS}


def check_metrics(names: Iterable[str]) -> None:
    """Refuse names that the glossary does not hold.

    Raises:
        ConfigError: An unknown name; the message names the closest ones and where to add it.
    """
    for name in names:
        if name in METRICS or any(pattern.fullmatch(name) for pattern in _PATTERNS.values()):
            continue
        close = difflib.get_close_matches(name, METRICS, n=3, cutoff=0.4) or list(METRICS)[:3]
        raise ConfigError(
            f"metric {name!r} is not in the glossary; close names: {', '.join(close)}; "
            "a new metric gets its formula and unit in evaluation/glossary.py"
        )


def glossary_markdown() -> str:
    """Return the glossary as a Markdown table."""
    rows = [f"| `{name}` | {metric.formula.replace('|', '∣')} | {metric.unit} |" for name, metric in METRICS.items()]
    return "\n".join(["| metric | formula | unit |", "|---|---|---|", *rows])
