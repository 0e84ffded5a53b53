"""Weighted sums over the micro-batches of an update, in all and by role; the last epoch begun is what is reported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from evaluation.ranks import Ranks
from training.minibatch import Microbatch


class Tally:
    """Running sums of one update."""

    def __init__(self, roles: Sequence[str], clip: float) -> None:
        """Name the roles by id; `clip` is ε of the clip fraction."""
        self.roles, self.clip = roles, clip
        self._ratio_max = 0.0
        self._norms: list[float] = []
        self._padded = self._positions = 0
        self.start_epoch()

    def start_epoch(self) -> None:
        """Forget the sums of the epoch before."""
        self._sums: dict[str, float] = defaultdict(float)
        self._mass: dict[str, float] = defaultdict(float)
        self._values = [0.0, 0.0]

    def policy(self, batch: Microbatch, new: Tensor, kl: Tensor, entropy: Tensor, omega: Tensor, loss: float) -> None:
        """Add one micro-batch of trained rows.

        Args:
            batch: B rows.
            new: (B, T) log-probabilities now.
            kl: (B, T) estimate towards the reference.
            entropy: (B, T).
            omega: (B, T) importance weights.
            loss: Σ w·ℓ of the policy.
        """
        assert batch.weights is not None and batch.old is not None
        on = batch.weights > 0
        difference = torch.where(on, new - batch.old, 0.0)
        ratio = difference.exp()
        tables = {
            "kl": kl,
            "entropy": entropy,
            "clip_fraction": ((ratio - 1).abs() > self.clip).float(),
            "old_new_kl": ratio - 1 - difference,
            "omega": omega,
        }
        self._ratio_max = max(self._ratio_max, float(ratio[on].max()) if bool(on.any()) else 0.0)
        self._sums["policy_loss"] += loss
        self._positions += batch.input_ids.numel()
        self._padded += batch.input_ids.numel() - int(batch.attention_mask.sum())
        for role in sorted(set(batch.role_ids.tolist())):
            mine = torch.where(batch.role_ids[:, None] == role, batch.weights, 0.0)
            name = self.roles[role]
            self._mass[""] += float(mine.sum())
            self._mass[name] += float(mine.sum())
            for key, table in tables.items():
                part = float((torch.where(on, table, 0.0) * mine).sum())
                self._sums[key] += part
                self._sums[f"{key}/{name}"] += part

    def value(self, team: float, own: float) -> None:
        """Add the value losses of one micro-batch."""
        self._values[0] += team
        self._values[1] += own

    def norm(self, norm: float) -> None:
        """Add the policy's gradient norm of one step."""
        self._norms.append(norm)

    def over(self, ranks: Ranks) -> None:
        """Add up what all ranks have counted, each over its part of the rows; steps are the same on all."""
        if ranks.size == 1:
            return
        mine = [self._sums, self._mass, self._values, self._ratio_max, self._padded, self._positions]
        everyone = ranks.gather(mine)
        self.start_epoch()
        self._ratio_max, self._padded, self._positions = 0.0, 0, 0
        for sums, mass, values, ratio_max, padded, positions in everyone:
            for into, table in ((self._sums, sums), (self._mass, mass)):
                for key, number in table.items():
                    into[key] += number
            self.value(*values)
            self._ratio_max = max(self._ratio_max, ratio_max)
            self._padded += padded
            self._positions += positions

    def metrics(self) -> dict[str, float]:
        """Return the numbers under their tracked names."""
        found = {"update/value_loss": self._values[0], "update/format_value_loss": self._values[1]}
        if not self._mass[""]:
            return found
        found["update/policy_loss"] = self._sums["policy_loss"] / self._mass[""]
        found["update/ratio_max"] = self._ratio_max
        found["update/padding"] = self._padded / max(1, self._positions)
        if self._norms:
            found["update/gradient_norm"] = sum(self._norms) / len(self._norms)
        for key in ("kl", "entropy", "clip_fraction", "old_new_kl", "omega"):
            found[f"update/{key}"] = self._sums[key] / self._mass[""]
            if key in ("kl", "entropy", "clip_fraction"):
                for role in self.roles:
                    if self._mass[role]:
                        found[f"update/{key}/{role}"] = self._sums[f"{key}/{role}"] / self._mass[role]
        return found
