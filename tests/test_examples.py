"""The example of one's own graph: what README and CONTRIBUTING promise about it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from agents.batcher import TimedBatcher
from examples import own_graph
from examples.own_graph import graph
from graphs import collect
from graphs.ledger import LedgerWriter, read_ledger
from tests.scripted import ScriptedPolicy, says
from tests.toy_model import toy_model

QUESTION = "Which planet is the largest?"
ANSWERS = says(
    writer=lambda user: "<answer>Jupiter</answer>" if "Answer: Mars" in user else "<answer>Mars</answer>",
    judge=lambda user: "<right>no</right>",
)


def test_it_stays_short() -> None:
    assert len(Path(str(own_graph.__file__)).read_text().splitlines()) < 40


def test_importing_it_loads_no_model() -> None:
    code = "import sys, examples.own_graph; print(sorted({'torch', 'transformers', 'chromadb'} & set(sys.modules)))"
    root = Path(str(own_graph.__file__)).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("accepted", [True, False])
def test_both_ways_through_the_branch(accepted: bool, tmp_path: Path) -> None:
    verdict = f"<right>{'yes' if accepted else 'no'}</right>"
    policy = ScriptedPolicy(lambda role, user: verdict if role == "judge" else ANSWERS(role, user))
    mine = graph.with_recorder(batcher=TimedBatcher(policy), ledger=LedgerWriter(tmp_path))
    for result in (mine.invoke(QUESTION), asyncio.run(mine.ainvoke(QUESTION))):
        assert result["answer"] == ("Mars" if accepted else "Jupiter")
    for stored in read_ledger(tmp_path):
        roles = ["writer", "judge"] if accepted else ["writer", "judge", "writer"]
        assert [call.role for call in stored.calls] == roles and stored.question == QUESTION
        assert [call.parents for call in stored.calls] == [(), ("write",), ("judge",)][: len(roles)]


def test_it_is_collected_for_training_by_a_real_model(tmp_path: Path) -> None:
    questions = [{"question": f"{QUESTION} {place}", "id": str(place)} for place in range(3)]
    trajectories = collect(
        graph, questions, policy=toy_model(), ledger=LedgerWriter(tmp_path), record="train", max_new_tokens=24, runs=2
    )
    assert len(trajectories) == 6 and all(item.trainable and item.question_id for item in trajectories)
    judged = [call for item in trajectories for call in item.calls if call.role == "judge"]
    assert judged and all(call.value in ("yes", "no") for call in judged)
    assert all(call.format_error is None or call.truncated for call in judged)
    assert {call.role for item in trajectories for call in item.calls} == {"writer", "judge"}
