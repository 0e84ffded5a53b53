"""The critic V_φ: a linear head on hidden states, read at the last prompt token of each call.

One value a call, two outputs: team (expected return G) and format (expected f). The hidden states come from the
policy itself (`critic: head`, detached, so that values cost no second forward pass and cannot disturb the policy)
or from a small adapter of the critic's own (`critic: adapter`). Against the released code: no second backbone.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class HiddenStates(Protocol):
    """Whatever turns tokens into hidden states: a model under one adapter."""

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return (B, L, H) last hidden states of (B, L) right-padded tokens."""


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


def at_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """Pick one hidden state a row.

    Args:
        hidden: (B, L, H).
        positions: (B,) position in the row.

    Returns:
        (B, H).
    """
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), positions]


def call_values(head: ValueHead, hidden: Tensor, last_prompt: Tensor) -> Tensor:
    """Return (B, outputs): V_c of each call, read at the last prompt token (DESIGN §5 "Team channel").

    Args:
        head: The value head.
        hidden: (B, L, H) last hidden states of prompt and response; only causal attention makes this V(prompt).
        last_prompt: (B,) position of the last prompt token.
    """
    values: Tensor = head(at_positions(hidden, last_prompt))
    return values


def token_values(head: ValueHead, hidden: Tensor, logit_index: Tensor) -> Tensor:
    """Return (B, T): the first output before each response token, V_{c,t}, for the `broadcast` estimator.

    Args:
        head: The value head.
        hidden: (B, L, H).
        logit_index: (B, T) position that predicts response token t.
    """
    index = logit_index.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
    values: Tensor = head(hidden.gather(1, index))
    return values[..., 0]


class Critic:
    """A value head over somebody's hidden states.

    With `detach` the head learns alone (`critic: head`); without it gradients reach whatever made the hidden states
    (`critic: adapter`: the critic's own adapter, whose parameters belong to the critic's optimiser group).
    """

    def __init__(self, head: ValueHead, hidden_states: HiddenStates, detach: bool) -> None:
        """Bind the head to the source of its hidden states."""
        self.head = head
        self.hidden_states = hidden_states
        self.detach = detach

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, last_prompt: Tensor) -> Tensor:
        """Return (B, outputs) values of each call.

        Args:
            input_ids: (B, L) right-padded; the prompt alone is enough.
            attention_mask: (B, L).
            last_prompt: (B,).
        """
        hidden = self.hidden_states(input_ids, attention_mask)
        return call_values(self.head, hidden.detach() if self.detach else hidden, last_prompt)
