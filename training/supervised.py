"""Supervised rows as calls, and the loop that learns them: likelihood of the response tokens alone, by role weight."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from agents.call import Call
from agents.errors import ConfigError
from agents.model import SharedModel
from agents.role import Prompts
from agents.roster import ROLES
from evaluation.ranks import ALONE, MACHINES, Ranks
from evaluation.tracking import TrackedRun
from graphs.acting import fit
from graphs.trajectory import Trajectory
from training.adapter import TRAINED
from training.buffer import RolloutBuffer
from training.gradients import shared_gradients
from training.learner import Learner
from training.minibatch import Microbatch, collate, minibatches
from training.rows import Row
from training.schedule import rate
from training.sft_config import SFTConfig

_log = logging.getLogger("jade.sft")

PROMPTS = Prompts("bare")
"""A trained model speaks under the bare prompts: they are shorter, and it knows the formats."""


def supervised_calls(rows: Sequence[Row], shared: SharedModel) -> list[Call]:
    """Render rows as calls whose response is the target, token by token as sampling would end it.

    Roles with a stop tag end with it; the others end with the end-of-sequence token. Rows whose target exceeds
    the role's token budget are left out.
    """
    calls = []
    for index, row in enumerate(rows):
        role = ROLES[row.role]
        prompt, _, dropped = fit(role, row.inputs, PROMPTS, shared, role.max_new_tokens)
        ids = list(shared.tokenizer(row.target_text, add_special_tokens=False)["input_ids"])
        if role.stop is None:
            ids.append(shared.end_token)
        if len(ids) > role.max_new_tokens:
            continue
        calls.append(
            Call(
                id=str(index),
                role=row.role,
                path=row.role,
                parents=(),
                prompt_ids=prompt.ids,
                response_ids=tuple(ids),
                logprobs=(0.0,) * len(ids),
                mask=(1,) * len(ids),
                temperature=1.0,
                greedy=False,
                text=row.target_text,
                value=None,
                format_error=None,
                truncated=False,
                dropped_documents=dropped,
            )
        )
    return calls


def row_weights(rows: Sequence[Row], calls: Sequence[Call]) -> list[float]:
    """Return, for each call that `supervised_calls` made of some rows, the weight of its row."""
    return [rows[int(call.id)].weight for call in calls]


def supervised_buffer(
    calls: Sequence[Call], role_weights: dict[str, float], weights: Sequence[float] | None = None
) -> RolloutBuffer:
    """Put calls into a buffer, one trajectory each, with weights that sum to 1 over the buffer.

    Args:
        calls: In the buffer's order.
        role_weights: Role → weight of its calls; 1 where not named.
        weights: Each call's own, which multiplies its role's; None = 1.

    Raises:
        ConfigError: There are no calls.
    """
    if not calls:
        raise ConfigError("no supervised rows are left; lower held_out, or raise per_role and questions_per_set")
    runs = [Trajectory(run=f"{i}", question="", answer="", outcome="ok", calls=(call,)) for i, call in enumerate(calls)]
    buffer = RolloutBuffer.of(runs).weighed("trajectory")
    assert buffer.weights is not None
    own = [1.0] * len(calls) if weights is None else weights
    scale = [role_weights.get(call.role, 1.0) * weight for call, weight in zip(calls, own, strict=True)]
    scaled = buffer.weights * scale
    return buffer.reweighed(scaled / float((scaled * buffer.counts).sum()))


class Warmup:
    """One supervised fine-tuning run over a buffer."""

    def __init__(self, config: SFTConfig, learner: Learner, buffer: RolloutBuffer, ranks: Ranks = ALONE) -> None:
        """Make the optimiser over the adapter's fp32 parameters; each rank goes over a part of every step's rows."""
        self.config, self.learner, self.buffer, self.ranks = config, learner, buffer, ranks
        self.parameters = learner.parameters(TRAINED)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=config.weight_decay)
        self.per_epoch = max(1, -(-len(buffer) // config.rows_per_step))
        self.total = max(1, round(config.epochs * self.per_epoch))
        self.step = 0
        self.tokens = 0

    def run(self, tracked: TrackedRun) -> None:
        """Train for the configured epochs, or until the minutes are over.

        Raises:
            ConfigError: The ranks have not learned the same, bit for bit.
        """
        self._run(tracked)
        if self.ranks.size > 1:
            self.ranks.alike("the weights", self.learner.shared.adapter_set.fingerprint(TRAINED), MACHINES)

    def _run(self, tracked: TrackedRun) -> None:
        started = time.monotonic()
        epoch = 0
        while self.step < self.total:
            plan = minibatches(self.buffer.lengths, self.per_epoch, self.config.token_budget, (self.config.seed, epoch))
            order = torch.randperm(
                len(plan), generator=torch.Generator().manual_seed(self.config.seed + epoch)
            ).tolist()
            for index in order:
                if self.step >= self.total:
                    return
                spent = (time.monotonic() - started) / 60
                done = self.step / self.total
                if self.config.minutes is not None:
                    done = self.ranks.tell(max(done, spent / self.config.minutes))
                if done >= 1:
                    return
                metrics = self._step(plan[index], done)
                if self.step % 10 == 0 or self.step == 1:
                    speed, loss = self.tokens / (time.monotonic() - started), metrics["sft/loss"]
                    _log.info("step %d/%d loss %.3f %.0f tok/s %.1f min", self.step, self.total, loss, speed, spent)
                    tracked.log_metrics({**metrics, "sft/tokens_per_second": speed}, self.step)
            epoch += 1

    def _step(self, batches: Sequence[Sequence[int]], done: float) -> dict[str, float]:
        """Take one optimiser step; return its learning rate and mean losses in nats a token weight."""
        factor = min(1.0, (self.step + 1) / max(1, self.config.warmup)) * rate(
            round(done * 10_000), 10_000, shape="cosine"
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor
        masses = _masses(self.buffer, [row for part in batches for row in part])
        mass = math.fsum(masses.values())
        sums, tokens = dict.fromkeys(masses, 0.0), 0
        for rows in self.ranks.mine(batches):
            batch, losses = _losses(self.learner, self.buffer, rows)
            (losses.sum() / mass).backward()  # type: ignore[no-untyped-call]
            for row, loss in zip(rows, losses.tolist(), strict=True):
                sums[self.buffer.rows[row].call.role] += loss
            tokens += int(batch.attention_mask.sum())
        *found, read = shared_gradients(self.ranks, self.parameters, [*sums.values(), tokens])
        self.tokens += int(read)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {
            "sft/loss": math.fsum(found) / mass,
            "sft/learning_rate": self.config.lr * factor,
            **{f"sft/loss/{role}": loss / masses[role] for role, loss in zip(sums, found, strict=True) if masses[role]},
        }


def held_out_loss(learner: Learner, rows: Sequence[Row], config: SFTConfig) -> dict[str, float]:
    """Return `sft/dev_loss` of the trained adapter on rows that are not trained on; nothing where there are none.

    Args:
        learner: Whose trained adapter.
        rows: Of each role so many, which count as while training.
        config: Weights of the roles, and most tokens of a forward pass.
    """
    calls = supervised_calls(rows, learner.shared)
    if not calls:
        return {}
    buffer, total = supervised_buffer(calls, config.role_weights, row_weights(rows, calls)), 0.0
    with torch.no_grad():
        for part in minibatches(buffer.lengths, 1, config.token_budget, (config.seed, 0))[0]:
            total += float(_losses(learner, buffer, part)[1].sum())
    return {"sft/dev_loss": total / math.fsum(_masses(buffer, range(len(buffer))).values())}


def _losses(learner: Learner, buffer: RolloutBuffer, rows: Sequence[int]) -> tuple[Microbatch, Tensor]:
    """Return some rows as a batch, and (B,) −Σ w·log π of each of them."""
    batch = collate(buffer, rows, pad_id=0, device=learner.device)
    scores = learner.score(batch, [buffer.rows[row].call for row in rows], TRAINED)
    assert batch.weights is not None
    return batch, -(scores.logprobs * batch.weights).sum(-1)


def _masses(buffer: RolloutBuffer, rows: Sequence[int]) -> dict[str, float]:
    """Return role → Σ w over the response tokens of some rows, for each role that they have."""
    assert buffer.weights is not None
    found: dict[str, float] = {}
    for row in rows:
        role = buffer.rows[row].call.role
        found[role] = found.get(role, 0.0) + float(buffer.weights[row] * buffer.counts[row])
    return found
