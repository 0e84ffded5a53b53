"""Where questions go: counts worked out by hand, and a diagram in which nothing is lost between two stages."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.flow import RESULTS, STAGES, bars_of, flow_figure, flows_of, ribbons_of
from tests.test_evaluate_report import blocks


def test_counts_by_hand() -> None:
    rows = [tuple(row.values()) for row in flows_of(blocks())]
    assert rows == [
        ("A", "1 hop", "R,AG", "right", 1), ("A", "2 hops", "R,AG", "partly right", 1),
        ("A", "2 hops", "R,AG", "right", 1), ("A", "2 hops", "R,AG", "wrong", 2),
        ("B", "1 hop", "QDS", "right", 1), ("B", "2 hops", "QDS", "no answer", 1), ("B", "2 hops", "QDS", "right", 3),
    ]  # fmt: skip


def test_bars_and_ribbons_by_hand() -> None:
    rows = [
        {"hops": "1 hop", "plan": "R,AG", "result": "right", "n": 3},
        {"hops": "2 hops", "plan": "R,AG", "result": "wrong", "n": 1},
        {"hops": "2 hops", "plan": "QDS", "result": "right", "n": 4},
    ]
    assert bars_of(rows, "hops") == {
        "1 hop": pytest.approx((0.625, 0.375)), "2 hops": pytest.approx((0.625 - 0.03 - 0.625, 0.625)),
    }  # fmt: skip
    found = {(source, target): (low, end, height) for source, target, low, end, height in ribbons_of(rows, *STAGES[:2])}
    assert set(found) == {("1 hop", "R,AG"), ("2 hops", "QDS"), ("2 hops", "R,AG")}
    assert found["1 hop", "R,AG"] == pytest.approx((0.625, 0.47 - 0.375, 0.375))  # QDS above fills 0.5 to 1
    assert found["2 hops", "R,AG"] == pytest.approx((-0.03, 0.47 - 0.5, 0.125))


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "hops": st.sampled_from(["1 hop", "2 hops", "3 hops"]), "plan": st.sampled_from(["R,AG", "QDS", "QDP"]),
            "result": st.sampled_from(RESULTS), "n": st.integers(1, 50),
        }
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@given(rows=ROWS)
def test_what_flows_in_flows_out(rows: list[dict[str, Any]]) -> None:
    for left, right in pairwise(STAGES):
        starts, ends = bars_of(rows, left), bars_of(rows, right)
        out: Counter[str] = Counter()
        into: Counter[str] = Counter()
        for source, target, low, end, height in ribbons_of(rows, left, right):
            out[source] += height  # type: ignore[assignment]
            into[target] += height  # type: ignore[assignment]
            assert starts[source][0] - 1e-9 <= low and ends[target][0] - 1e-9 <= end
        assert dict(out) == pytest.approx({name: bar[1] for name, bar in starts.items()})
        assert dict(into) == pytest.approx({name: bar[1] for name, bar in ends.items()})


def test_systems_that_chose_are_drawn(tmp_path: Path) -> None:
    rows = [
        {"system": name, "hops": "1 hop", "plan": plan, "result": "right", "n": 2}
        for name, plans in {"jade": ("R,AG", "QDS"), "forced": ("R,AG",)}.items()
        for plan in plans
    ]
    assert flow_figure({"systems": ["forced"], "flows": rows}) is None
    figure = flow_figure({"systems": ["jade", "forced"], "flows": rows})
    assert figure is not None
    assert [panel.get_title() for panel in figure.axes] == ["jade"]
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == ["1 hop 100%", "QDS 50%", "R,AG 50%", "right 100%"]
    three = [{**row, "system": name} for name in "abc" for row in rows[:2]]
    panels = flow_figure({"systems": ["a", "b", "c"], "flows": three})
    assert panels is not None and [bool(panel.axison) for panel in panels.axes] == [False] * 4
    assert [panel.get_title() for panel in panels.axes] == ["a", "b", "c", ""]
    names = [f"s{place}" for place in range(9)]
    large = flow_figure({"systems": names, "flows": [{**row, "system": name} for name in names for row in rows[:2]]})
    assert large is not None and [panel.get_title() for panel in large.axes] == [*names, ""]
    assert all(len(panel.patches) > 0 for panel in large.axes[:9]) and large.get_figheight() == pytest.approx(5 * 4.2)
    figure.savefig(tmp_path / "flow.png")
    assert (tmp_path / "flow.png").stat().st_size > 5000
