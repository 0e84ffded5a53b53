"""Who deserves what: credit estimators over the call DAG of one run. Pure functions on floats.

Two channels that never mix (DESIGN §5). Team: R at the sink, one critic value V_c per call, advantages A_c
= G_c − V_c. Format: f_c belongs to call c alone, A^f_c = f_c − V^f_c. Their sum is what the policy loss
sees. Departures from the paper: its estimator flattens a run into one chain (`terminal_gae` here), so that
with λ < 1 the value of one parallel branch leaks into its neighbour; `tree_gae` follows the DAG instead.
`broadcast` is what the released code does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from training.calldag import CallDag


@dataclass(frozen=True)
class Credit:
    """Credit of every call of one run, by call id; unwhitened."""

    returns: Mapping[str, float]
    """G_c: the target of the critic's team output (of its only output, R + f_c, under `broadcast`)."""
    advantages: Mapping[str, float]
    """A_c = G_c − V_c, the same for all tokens of c."""
    format_advantages: Mapping[str, float]
    """A^f_c = f_c − V^f_c; 0 under `broadcast`, whose one output holds both."""
    total: Mapping[str, float]
    """A_c + A^f_c: the advantage in the policy loss."""
    token_total: Mapping[str, tuple[float, ...]] | None = None
    """Only under `broadcast`: A_{c,t} of every response token; the other fields then hold its mean over
    tokens."""

    def tokens(self, call: str, length: int) -> tuple[float, ...]:
        """Return the advantage of each of the `length` response tokens of `call`.

        Raises:
            ValueError: Per-token credit of another length is held for the call.
        """
        if self.token_total is None:
            return (self.total[call],) * length
        if len(self.token_total[call]) != length:
            raise ValueError(f"call {call}: {length} tokens, but credit for {len(self.token_total[call])}")
        return self.token_total[call]


def tree_gae(
    dag: CallDag,
    reward: float,
    values: Mapping[str, float],
    format_rewards: Mapping[str, float],
    format_values: Mapping[str, float],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> Credit:
    """Generalised advantage estimation (arXiv 1506.02438) along the call DAG.

    G_sink = R; G_c = γ·mean_{d ∈ children(c)} [(1 − λ)·V_d + λ·G_d]; A_c = G_c − V_c. The mean, not the
    sum: a fork shares one R, which is counted once. Sums at forks use fsum, so the order of siblings cannot
    matter.

    Args:
        dag: The call DAG of the run.
        reward: R.
        values: V_c by call id.
        format_rewards: f_c by call id, and whatever else is local to a call, such as a KL term in the reward.
        format_values: V^f_c by call id.
        gamma: Discount per call along a path, in (0, 1].
        lam: λ, in [0, 1].

    Raises:
        ValueError: A value or format reward is missing, or γ or λ is out of range.
    """
    _check(dag, gamma, lam, values=values, format_rewards=format_rewards, format_values=format_values)
    returns = _backward(dag.order, dag.children, reward, values, gamma, lam)
    return _credit(dag, returns, values, format_rewards, format_values)


def terminal_gae(
    dag: CallDag,
    reward: float,
    values: Mapping[str, float],
    format_rewards: Mapping[str, float],
    format_values: Mapping[str, float],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> Credit:
    """Generalised advantage estimation on the run flattened into one chain (paper §3.3, Algorithm 2).

    `tree_gae` on the depth-first, send-order chain. Equal to it without forks. With parallel branches and λ
    < 1 the value of a sibling leaks into its neighbour; with γ < 1 discounts count all calls sent later.
    The paper adds the format penalty to the same return; here it stays in its own channel. Arguments and
    errors as `tree_gae`.
    """
    _check(dag, gamma, lam, values=values, format_rewards=format_rewards, format_values=format_values)
    following = zip(dag.order, [*dag.order[1:], None], strict=True)
    chain = {call: (after,) if after is not None else () for call, after in following}
    returns = _backward(dag.order, chain, reward, values, gamma, lam)
    return _credit(dag, returns, values, format_rewards, format_values)


def broadcast(
    dag: CallDag,
    reward: float,
    token_values: Mapping[str, Sequence[float]],
    format_rewards: Mapping[str, float],
) -> Credit:
    """Copy the outcome to every call, as the released code does: A_{c,t} = R + f_c − V_{c,t}.

    γ = λ = 1 inside the response and no sequence between calls; one critic output, trained on R + f_c.

    Args:
        dag: The call DAG of the run; only its calls matter.
        reward: R.
        token_values: V_{c,t} of each response token, by call id; at least one token a call.
        format_rewards: f_c by call id.

    Raises:
        ValueError: A call has no token values or no format reward.
    """
    _check(dag, 1.0, 1.0, token_values=token_values, format_rewards=format_rewards)
    empty = [call for call in dag.order if not token_values[call]]
    if empty:
        raise ValueError(f"run {dag.run}: no token values for {', '.join(empty)}")
    returns = {call: reward + format_rewards[call] for call in dag.order}
    tokens = {call: tuple(returns[call] - value for value in token_values[call]) for call in dag.order}
    mean = {call: fsum(advantage) / len(advantage) for call, advantage in tokens.items()}
    return Credit(returns, mean, dict.fromkeys(dag.order, 0.0), mean, tokens)


def leave_one_out(outcomes: Sequence[float]) -> tuple[float, ...]:
    """Return the leave-one-out baseline of each of n ≥ 2 runs of one question: the mean R of the other runs.

    Raises:
        ValueError: Fewer than two runs.
    """
    if len(outcomes) < 2:
        raise ValueError(f"leave-one-out needs at least 2 runs of a question, not {len(outcomes)}")
    return tuple(
        fsum(other for j, other in enumerate(outcomes) if j != i) / (len(outcomes) - 1) for i in range(len(outcomes))
    )


def loo(dag: CallDag, reward: float, baseline: float, format_rewards: Mapping[str, float]) -> Credit:
    """Give every call R − baseline, without a critic (REINFORCE leave-one-out, arXiv 2402.14740).

    V_c is the baseline and V^f_c = 0, so A_c = R − baseline and A^f_c = f_c.

    Args:
        dag: The call DAG of the run; only its calls matter.
        reward: R.
        baseline: This run's entry of `leave_one_out` over the runs of its question.
        format_rewards: f_c by call id.

    Raises:
        ValueError: A format reward is missing.
    """
    _check(dag, 1.0, 1.0, format_rewards=format_rewards)
    returns = dict.fromkeys(dag.order, reward)
    values = dict.fromkeys(dag.order, baseline)
    return _credit(dag, returns, values, format_rewards, dict.fromkeys(dag.order, 0.0))


def _backward(
    order: Sequence[str],
    children: Mapping[str, Sequence[str]],
    reward: float,
    values: Mapping[str, float],
    gamma: float,
    lam: float,
) -> dict[str, float]:
    """Return G of every call, by the recursion of `tree_gae`, from the sink backwards."""
    returns: dict[str, float] = {}
    for call in reversed(order):
        after = children[call]
        if not after:
            returns[call] = reward
            continue
        terms = [term for d in after for term in ((1 - lam) * values[d], lam * returns[d])]
        returns[call] = gamma * fsum(terms) / len(after)
    return returns


def _credit(
    dag: CallDag,
    returns: Mapping[str, float],
    values: Mapping[str, float],
    format_rewards: Mapping[str, float],
    format_values: Mapping[str, float],
) -> Credit:
    team = {call: returns[call] - values[call] for call in dag.order}
    own = {call: format_rewards[call] - format_values[call] for call in dag.order}
    return Credit(dict(returns), team, own, {call: team[call] + own[call] for call in dag.order})


def _check(dag: CallDag, gamma: float, lam: float, **tables: Mapping[str, object]) -> None:
    if not 0.0 < gamma <= 1.0 or not 0.0 <= lam <= 1.0:
        raise ValueError(f"gamma={gamma}, lam={lam}: gamma must be in (0, 1], lam in [0, 1]")
    for name, table in tables.items():
        missing = [call for call in dag.order if call not in table]
        if missing:
            raise ValueError(f"run {dag.run}: {name} lacks the calls {', '.join(missing)}")


if __name__ == "__main__":
    import sys

    from training.credit_report import main

    sys.exit(main())
