"""Numbers worked out by hand in the comments; identities of DESIGN §5 on random series-parallel call DAGs."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.call import Call
from training.calldag import CallDag, call_dag
from training.credit import Credit, broadcast, leave_one_out, loo, terminal_gae, tree_gae

CHAIN = {"P": (), "QR": ("P",), "AG": ("QR",)}
QDS = {"P": (), "D": ("P",), "AG0": ("D",), "P1": ("AG0",), "AG1": ("P1",), "AS": ("AG1",)}
NESTED = {
    "P": (), "D": ("P",), "A0": ("D",), "D1": ("D",), "N0": ("D1",), "N1": ("D1",), "S1": ("N0", "N1"),
    "S": ("A0", "S1"),
}  # fmt: skip


def call(name: str, parents: tuple[str, ...], order: int) -> Call:
    return Call(
        id=name, role=name, path=name, parents=parents, prompt_ids=(1,), response_ids=(2,), logprobs=(-1.0,),
        mask=(1,), temperature=1.0, greedy=False, text="", value="", format_error=None, truncated=False,
        order=order,
    )  # fmt: skip


def calls(parents: dict[str, tuple[str, ...]]) -> list[Call]:
    return [call(name, above, order) for order, (name, above) in enumerate(parents.items())]


def dag(parents: dict[str, tuple[str, ...]]) -> CallDag:
    return call_dag("run-1", calls(parents))


def zeros(graph: CallDag) -> dict[str, float]:
    return dict.fromkeys(graph.order, 0.0)


# --- by hand


def test_chain_by_hand() -> None:
    # γ = 0.9, λ = 0.5, R = 1, V = (0.5, 0.6, 0.8).
    # G_AG = 1; G_QR = 0.9(0.5·0.8 + 0.5·1) = 0.81; G_P = 0.9(0.5·0.6 + 0.5·0.81) = 0.6345.
    # The δ form of GAE agrees: δ = (0.9·0.6 − 0.5, 0.9·0.8 − 0.6, 1 − 0.8) = (0.04, 0.12, 0.2), γλ = 0.45,
    # A_QR = 0.12 + 0.45·0.2 = 0.21, A_P = 0.04 + 0.45·0.21 = 0.1345.
    graph = dag(CHAIN)
    values = {"P": 0.5, "QR": 0.6, "AG": 0.8}
    penalties = {"P": 0.0, "QR": -1.0, "AG": 0.0}
    expected_format = {"P": -0.1, "QR": -0.25, "AG": 0.0}
    got = tree_gae(graph, 1.0, values, penalties, {"P": 0.1, "QR": -0.75, "AG": 0.0}, gamma=0.9, lam=0.5)
    assert got.returns == pytest.approx({"P": 0.6345, "QR": 0.81, "AG": 1.0})
    assert got.advantages == pytest.approx({"P": 0.1345, "QR": 0.21, "AG": 0.2})
    assert got.format_advantages == pytest.approx(expected_format)
    assert got.total == pytest.approx({"P": 0.0345, "QR": -0.04, "AG": 0.2})
    assert got.tokens("QR", 2) == (got.total["QR"], got.total["QR"])


def test_serial_decomposition_by_hand() -> None:
    # γ = 1, λ = 0.5, R = 0.5. G_AS = 0.5; G_AG1 = 0.5·0.9 + 0.5·0.5 = 0.7; G_P1 = 0.5·0.7 + 0.5·0.7 = 0.7;
    # G_AG0 = 0.5·0.3 + 0.5·0.7 = 0.5; G_D = 0.5·0.6 + 0.5·0.5 = 0.55; G_P = 0.5·0.2 + 0.5·0.55 = 0.375.
    graph = dag(QDS)
    values = {"P": 0.4, "D": 0.2, "AG0": 0.6, "P1": 0.3, "AG1": 0.7, "AS": 0.9}
    got = tree_gae(graph, 0.5, values, zeros(graph), zeros(graph), lam=0.5)
    assert got.returns == pytest.approx({"P": 0.375, "D": 0.55, "AG0": 0.5, "P1": 0.7, "AG1": 0.7, "AS": 0.5})
    assert got.advantages == pytest.approx({"P": -0.025, "D": 0.35, "AG0": -0.1, "P1": 0.4, "AG1": 0.0, "AS": -0.4})
    assert terminal_gae(graph, 0.5, values, zeros(graph), zeros(graph), lam=0.5) == got


NESTED_VALUES = {"P": 0.25, "D": 0.7, "A0": 0.2, "D1": 0.4, "N0": 0.1, "N1": 0.3, "S1": 0.6, "S": 0.5}


def test_nested_fork_by_hand() -> None:
    # γ = 1, λ = 0.5, R = 1. G_S = 1; G_A0 = G_S1 = 0.5·0.5 + 0.5·1 = 0.75; G_N0 = G_N1 = 0.5·0.6 + 0.5·0.75
    # = 0.675; G_D1 = mean(0.5·0.1 + 0.5·0.675, 0.5·0.3 + 0.5·0.675) = mean(0.3875, 0.4875) = 0.4375; G_D =
    # mean(0.5·0.2 + 0.5·0.75, 0.5·0.4 + 0.5·0.4375) = mean(0.475, 0.41875) = 0.446875; G_P = 0.5·0.7 +
    # 0.5·0.446875 = 0.5734375.
    graph = dag(NESTED)
    got = tree_gae(graph, 1.0, NESTED_VALUES, zeros(graph), zeros(graph), lam=0.5)
    assert got.returns == pytest.approx(
        {
            "P": 0.5734375, "D": 0.446875, "A0": 0.75, "D1": 0.4375, "N0": 0.675, "N1": 0.675,
            "S1": 0.75, "S": 1.0,
        }
    )  # fmt: skip
    assert got.advantages["D"] == pytest.approx(0.446875 - 0.7)


def test_flattened_nested_fork_by_hand() -> None:
    # The same run as the chain P, D, A0, D1, N0, N1, S1, S: G_S = 1; G_S1 = 0.75; G_N1 = 0.675;
    # G_N0 = 0.5·0.3 + 0.5·0.675 = 0.4875; G_D1 = 0.5·0.1 + 0.5·0.4875 = 0.29375;
    # G_A0 = 0.5·0.4 + 0.5·0.29375 = 0.346875; G_D = 0.5·0.2 + 0.5·0.346875 = 0.2734375; G_P = 0.48671875.
    graph = dag(NESTED)
    got = terminal_gae(graph, 1.0, NESTED_VALUES, zeros(graph), zeros(graph), lam=0.5)
    assert got.returns == pytest.approx(
        {
            "P": 0.48671875, "D": 0.2734375, "A0": 0.346875, "D1": 0.29375, "N0": 0.4875, "N1": 0.675,
            "S1": 0.75, "S": 1.0,
        }
    )  # fmt: skip


def test_a_siblings_value_leaks_in_terminal_but_not_in_tree() -> None:
    graph, none = dag(NESTED), zeros(dag(NESTED))
    other = {**NESTED_VALUES, "D1": 0.9}
    tree = [tree_gae(graph, 1.0, v, none, none, lam=0.5).returns["A0"] for v in (NESTED_VALUES, other)]
    flat = [terminal_gae(graph, 1.0, v, none, none, lam=0.5).returns["A0"] for v in (NESTED_VALUES, other)]
    assert tree[0] == tree[1]
    assert flat[1] - flat[0] == pytest.approx(0.25)  # (1 − λ)·(0.9 − 0.4)


def test_broadcast_by_hand() -> None:
    # R = 0.6: the valid call's target is 0.6, the refused one's 0.6 − 1 = −0.4.
    graph = dag({"P": (), "AG": ("P",)})
    got = broadcast(graph, 0.6, {"P": [0.1, 0.3], "AG": [0.6]}, {"P": -1.0, "AG": 0.0})
    assert got.returns == pytest.approx({"P": -0.4, "AG": 0.6})
    assert got.tokens("P", 2) == pytest.approx((-0.5, -0.7))
    assert got.total == pytest.approx({"P": -0.6, "AG": 0.0})
    with pytest.raises(ValueError, match="3 tokens"):
        got.tokens("P", 3)
    with pytest.raises(ValueError, match=r"run-1.*AG"):
        broadcast(graph, 0.6, {"P": [0.1], "AG": []}, {"P": 0.0, "AG": 0.0})


def test_leave_one_out_by_hand() -> None:
    # R = (1, 0, 0.5): the others' means are 0.25, 0.75, 0.5.
    assert leave_one_out([1.0, 0.0, 0.5]) == pytest.approx((0.25, 0.75, 0.5))
    graph = dag({"P": (), "AG": ("P",)})
    got = loo(graph, 1.0, 0.25, {"P": -1.0, "AG": 0.0})
    assert got.advantages == {"P": 0.75, "AG": 0.75}
    assert got.total == {"P": -0.25, "AG": 0.75}
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out([1.0])


# --- what is refused


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ({}, "no calls"),
        ({"a": (), "b": ()}, "2 calls are followed by none"),
        ({"a": ("b",), "b": ("a",), "c": ("b",)}, "circle"),
        ({"a": (), "b": ("ghost",)}, "ghost"),
    ],
)
def test_malformed_dags_name_the_run(parents: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=f"run run-1.*{message}"):
        dag(parents)


def test_duplicate_ids_and_missing_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"used twice: P"):
        call_dag("run-1", [*calls(CHAIN), calls(CHAIN)[0]])
    graph = dag(CHAIN)
    with pytest.raises(ValueError, match=r"values lacks the calls AG"):
        tree_gae(graph, 1.0, {"P": 0.0, "QR": 0.0}, zeros(graph), zeros(graph))
    with pytest.raises(ValueError, match=r"lam=1\.5"):
        terminal_gae(graph, 1.0, zeros(graph), zeros(graph), zeros(graph), lam=1.5)


def test_order_is_send_order_however_the_calls_are_listed() -> None:
    graph = call_dag("run-1", list(reversed(calls(NESTED))))
    assert graph.order == tuple(NESTED)
    assert graph.sink == "S"
    assert graph.children["D"] == ("A0", "D1")


# --- properties on random series-parallel DAGs


@dataclass(frozen=True)
class Case:
    """One random run: its parents by id in send order, and all numbers that an estimator takes."""

    parents: dict[str, tuple[str, ...]]
    reward: float
    values: dict[str, float]
    penalties: dict[str, float]
    format_values: dict[str, float]
    lam: float

    def credit(self, estimator: object = tree_gae, lam: float | None = None) -> Credit:
        assert callable(estimator)
        weight = self.lam if lam is None else lam
        got = estimator(dag(self.parents), self.reward, self.values, self.penalties, self.format_values, lam=weight)
        assert isinstance(got, Credit)
        return got


SHAPES = st.recursive(
    st.just("call"),
    lambda inner: st.tuples(st.sampled_from(["series", "fork"]), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=8,
)


def grow(shape: object, parents: dict[str, tuple[str, ...]], above: tuple[str, ...]) -> tuple[str, ...]:
    """Append the calls of `shape` after `above` in send order; return the ids of its last call."""

    def add(*before: str) -> tuple[str, ...]:
        name = f"c{len(parents)}"
        parents[name] = before
        return (name,)

    if shape == "call":
        return add(*above)
    assert isinstance(shape, tuple)
    kind, parts = shape
    if kind == "series":
        for part in parts:
            above = grow(part, parents, above)
        return above
    head = add(*above)
    return add(*(last for part in parts for last in grow(part, parents, head)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    parents: dict[str, tuple[str, ...]] = {}
    grow(draw(SHAPES), parents, ())
    numbers = st.floats(-2, 2, allow_nan=False).map(lambda x: round(x, 6))

    def table(values: st.SearchStrategy[float]) -> dict[str, float]:
        return {name: draw(values) for name in parents}

    penalties = table(st.sampled_from([0.0, -1.0]))
    return Case(parents, draw(numbers), table(numbers), penalties, table(numbers), draw(st.floats(0, 1)))


@given(cases())
def test_without_discount_and_bootstrap_the_advantage_is_reward_minus_value(case: Case) -> None:
    for estimator in (tree_gae, terminal_gae):
        got = case.credit(estimator, lam=1.0)
        expected = {name: case.reward - value for name, value in case.values.items()}
        assert got.advantages == pytest.approx(expected, abs=1e-9)


@given(cases())
def test_without_forks_tree_equals_terminal_exactly(case: Case) -> None:
    names = list(case.parents)
    chain: dict[str, tuple[str, ...]] = {name: (names[i - 1],) if i else () for i, name in enumerate(names)}
    straight = Case(chain, case.reward, case.values, case.penalties, case.format_values, case.lam)
    assert straight.credit(tree_gae) == straight.credit(terminal_gae)


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_sibling_order_cannot_matter(case: Case, random: object) -> None:
    shuffled = calls(case.parents)
    getattr(random, "shuffle")(shuffled)  # noqa: B009
    renumbered = [Call(**{**c.__dict__, "order": i}) for i, c in enumerate(shuffled)]
    other = call_dag("run-1", renumbered)
    got = tree_gae(other, case.reward, case.values, case.penalties, case.format_values, lam=case.lam)
    assert got == case.credit()  # exactly, not approximately


@given(cases(), st.data())
def test_a_format_penalty_never_leaves_its_call(case: Case, data: st.DataObject) -> None:
    culprit = data.draw(st.sampled_from(sorted(case.parents)))
    worse = {**case.penalties, culprit: case.penalties[culprit] - 5.0}
    changed = Case(case.parents, case.reward, case.values, worse, case.format_values, case.lam)
    for estimator in (tree_gae, terminal_gae):
        before, after = case.credit(estimator), changed.credit(estimator)
        assert after.returns == before.returns
        assert after.advantages == before.advantages
        moved = {name for name in case.parents if after.total[name] != before.total[name]}
        assert moved == {culprit}


@given(cases())
def test_a_constant_critic_that_is_right_leaves_no_advantage(case: Case) -> None:
    right = dict.fromkeys(case.parents, case.reward)
    got = Case(case.parents, case.reward, right, case.penalties, case.format_values, case.lam).credit()
    assert got.advantages == pytest.approx(dict.fromkeys(case.parents, 0.0), abs=1e-9)


@given(st.floats(-2, 2), st.floats(-2, 2), st.integers(1, 5))
def test_on_one_valid_call_all_estimators_agree(reward: float, value: float, length: int) -> None:
    graph = dag({"AG": ()})
    none = {"AG": 0.0}
    expected = (reward - value,) * length
    assert tree_gae(graph, reward, {"AG": value}, none, none, lam=1.0).tokens("AG", length) == expected
    assert terminal_gae(graph, reward, {"AG": value}, none, none, lam=1.0).tokens("AG", length) == expected
    assert broadcast(graph, reward, {"AG": [value] * length}, none).tokens("AG", length) == expected
    assert loo(graph, reward, value, none).tokens("AG", length) == expected
