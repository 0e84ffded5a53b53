"""The critic V_φ: a linear head on hidden states, read at the last prompt token of each call.

One value a call, two outputs: team (expected return G) and format (expected f). The hidden states come from the
policy itself (`critic: head`, detached, so that values cost no second forward pass and cannot disturb the policy)
or from a small adapter of the critic's own (`critic: adapter`). Against the released code: no second backbone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """A linear map from one hidden state to the critic's outputs, always in fp32.

    The weights start at zero and the bias at the first batch's mean targets, so that the first advantages are
    centred and carry no noise from a random head.
    """

    def __init__(self, hidden: int, outputs: int = 2) -> None:
        """Build the head for hidden states of width `hidden`; outputs are (team, format)."""
        super().__init__()
        self.linear = nn.Linear(hidden, outputs, dtype=torch.float32)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def start_at(self, means: Tensor) -> None:
        """Set the bias to the first batch's mean targets.

        Args:
            means: (outputs,) such as (mean G, mean f).

        Raises:
            ValueError: Another number of means than outputs.
        """
        if means.shape != self.linear.bias.shape:
            raise ValueError(f"means of shape {tuple(means.shape)}; need {tuple(self.linear.bias.shape)}")
        with torch.no_grad():
            self.linear.bias.copy_(means)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return (..., outputs) values of (..., H) hidden states."""
        values: Tensor = self.linear(hidden.float())
        return values
