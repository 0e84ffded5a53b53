"""The glossary: names outside it are refused, and it reads as a table."""

import pytest

from agents.errors import ConfigError
from evaluation.glossary import METRICS, check_metrics, glossary_markdown


def test_metric_names_come_from_the_glossary() -> None:
    check_metrics(["rollout/reward", "rollout/valid/planner", "eval/nq/f1", "eval/nq/f1/low", "rollout/plan/R-AG"])
    with pytest.raises(ConfigError, match=r"'rollout/rewrad'.*rollout/reward.*glossary\.py"):
        check_metrics(["rollout/rewrad"])
    with pytest.raises(ConfigError, match="'rollout/valid/a/b'"):
        check_metrics(["rollout/valid/a/b"])
    assert glossary_markdown().count("\n") == len(METRICS) + 1
    assert all(line.count("|") == 4 for line in glossary_markdown().splitlines())
