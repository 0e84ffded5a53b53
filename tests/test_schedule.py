import pytest

from training.schedule import rate


def test_shapes_by_hand() -> None:
    assert [rate(step, 10, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [rate(step, 4, 0, "linear") for step in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert rate(2, 4, 0, "cosine") == pytest.approx(0.5)
    assert rate(4, 4, 0, "cosine", floor=0.1) == pytest.approx(0.1)
    assert rate(2, 4, 0, "linear", floor=0.5) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="shape='wobbly'"):
        rate(0, 4, 0, "wobbly")  # type: ignore[arg-type]
