"""Teacher forcing: log-probabilities of recorded responses by one full forward, under the same M and τ (DESIGN §6).

No key-value cache and no shared heads here, so that it checks what the decode engine does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.call import Constraint
from agents.constraint import Grammars, TokenIds, response_allowed
from agents.model_engine import allowed_mask
from agents.sampling import masked_logprobs


@dataclass(frozen=True)
class Forced:
    """One recorded response to score."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    constraint: Constraint | None
    tau: float


def force(
    module: nn.Module, grammars: Grammars, rows: Sequence[Forced], most_rows: int, most_tokens: int
) -> list[list[float]]:
    """Score rows in batches of similar length.

    Args:
        module: The language model.
        grammars: Compiles the constraints.
        rows: What to score.
        most_rows: Row cap of a batch.
        most_tokens: Most (rows × longest row) of a batch.

    Returns:
        One log-probability a response token: 0.0 where |M| = 1, −inf outside M.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt) + len(rows[i].response))
    scored: list[list[float]] = [[] for _ in rows]
    batch: list[int] = []
    for i in order:
        width = len(rows[i].prompt) + len(rows[i].response)
        if batch and (len(batch) >= most_rows or (len(batch) + 1) * width > most_tokens):
            _score(module, grammars, rows, batch, scored)
            batch = []
        batch.append(i)
    if batch:
        _score(module, grammars, rows, batch, scored)
    return scored


def _score(
    module: nn.Module, grammars: Grammars, rows: Sequence[Forced], batch: Sequence[int], scored: list[list[float]]
) -> None:
    chosen = [rows[i] for i in batch]
    logits = _response_logits(module, chosen)
    longest = max(len(row.response) for row in chosen)
    for place, (i, row) in enumerate(zip(batch, chosen, strict=True)):
        if row.response:
            first = longest - len(row.response)
            state = None if row.constraint is None else grammars.start(row.constraint)
            sets = response_allowed(state, row.response)
            scored[i] = _row_logprobs(logits[place, first:longest], row, sets)


def _row_logprobs(logits: Tensor, row: Forced, sets: Sequence[TokenIds | None]) -> list[float]:
    """Return one log-probability a token from logits (response tokens, vocabulary)."""
    mask = allowed_mask(sets, logits.shape[1], logits.device)
    tau = torch.full((len(row.response),), row.tau, device=logits.device)
    if mask is not None:
        mask[~mask.any(dim=1)] = True  # outside M from here on: overwritten with −inf below
    logprobs = masked_logprobs(logits, mask, tau)
    values: list[float] = logprobs.gather(1, torch.tensor(row.response, device=logits.device)[:, None])[:, 0].tolist()
    for t, ids in enumerate(sets):
        if ids is not None and len(ids) < 2:
            values[t] = 0.0 if len(ids) == 1 else float("-inf")
    return values


def _response_logits(module: nn.Module, rows: Sequence[Forced]) -> Tensor:
    """Return logits that predict the response tokens, right-aligned: (rows, longest response, vocabulary)."""
    device = next(module.parameters()).device
    sequences = [row.prompt + row.response for row in rows]
    width = max(map(len, sequences))
    longest = max(len(row.response) for row in rows)
    ids = torch.tensor([[0] * (width - len(s)) + list(s) for s in sequences], device=device)
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences], device=device)
    output = module(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp_(min=0),
        use_cache=False,
        logits_to_keep=longest + 1,
    )
    logits: Tensor = output.logits[:, -(longest + 1) : -1]
    return logits
