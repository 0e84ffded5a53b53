"""Exact probabilities of a finite set of responses: the prompt runs once, all choices after it in one batch.

What `SharedModel.choice_logprobs` computes by one full forward a choice, at a fraction of the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from agents.call import Constraint
from agents.constraint import response_allowed
from agents.model_engine import allowed_mask
from agents.sampling import masked_logprobs

if TYPE_CHECKING:
    from agents.model import SharedModel


def choice_probabilities(
    shared: SharedModel,
    prompts: Sequence[tuple[Sequence[int], Sequence[str]]],
    adapter: str | None = None,
    tau: float = 1.0,
) -> list[dict[str, float]]:
    """Return for each (prompt tokens, choices) the probability of every choice under constrained decoding; sums are 1.

    Args:
        shared: The model.
        prompts: Prompt tokens and the complete responses that they may get.
        adapter: Who speaks; None = the base.
        tau: Temperature above 0.

    Raises:
        ConfigError: The adapter is not loaded.
    """
    found = []
    with shared.using(adapter), torch.inference_mode():
        for ids, choices in prompts:
            constraint = Constraint(choices=tuple(choices))
            responses = [shared.grammars.complete(constraint, choice) for choice in choices]
            logits = _logits(shared.module, ids, responses)
            scores = [
                _logprob(shared, constraint, logits[row, : len(response)], response, tau)
                for row, response in enumerate(responses)
            ]
            found.append(dict(zip(choices, scores, strict=True)))
    return found


def _logits(module: nn.Module, prompt: Sequence[int], responses: Sequence[Sequence[int]]) -> Tensor:
    """Return the logits that predict each response token: (responses, longest response, vocabulary)."""
    device = next(module.parameters()).device
    rows, longest = len(responses), max(map(len, responses))
    first: Any = module(input_ids=torch.tensor([list(prompt)], device=device), use_cache=True, logits_to_keep=1)
    cache = first.past_key_values
    cache.batch_repeat_interleave(rows)
    ids = torch.tensor([[*response, *[0] * (longest - len(response))] for response in responses], device=device)
    rest: Any = module(
        input_ids=ids,
        attention_mask=torch.ones((rows, len(prompt) + longest), dtype=torch.long, device=device),
        position_ids=torch.arange(len(prompt), len(prompt) + longest, device=device)[None].expand(rows, -1),
        past_key_values=cache,
        use_cache=True,
    )  # padding stands at the end, where no kept token looks
    return torch.cat([first.logits[:, -1:].expand(rows, -1, -1), rest.logits[:, :-1]], dim=1)


def _logprob(shared: SharedModel, constraint: Constraint, logits: Tensor, response: Sequence[int], tau: float) -> float:
    """Return the probability of one response from its logits (tokens, vocabulary)."""
    sets = response_allowed(shared.grammars.start(constraint), response)
    mask = allowed_mask(sets, logits.shape[1], logits.device)
    temperatures = torch.full((len(response),), tau, device=logits.device)
    scores = masked_logprobs(logits, mask, temperatures)
    chosen = scores.gather(1, torch.tensor(list(response), device=logits.device)[:, None])
    return float(chosen.double().sum().exp())
