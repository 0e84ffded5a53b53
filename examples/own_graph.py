"""A graph of your own: a writer answers, a judge doubts, and what it rejects is written once more.

python examples/own_graph.py asks the embedded model; this trains both roles, together:
python -m training.ppo --graph examples.own_graph:graph --data my.jsonl
"""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph

from agents.tagged import tagged
from graphs import Options, act, trainable

WRITER = tagged("writer", "Answer the question in a few words.", sees=["question", "answer"], tag="answer")
JUDGE = tagged("judge", "Is the answer right?", sees=["question", "answer"], tag="right", choices=["yes", "no"])


class State(TypedDict, total=False):
    """What flows through the graph."""

    question: str
    answer: str
    right: str


builder = StateGraph(State)
builder.add_node("write", lambda state, config: {"answer": act(WRITER, state, config)})
builder.add_node("judge", lambda state, config: {"right": act(JUDGE, state, config)})
builder.add_node("rewrite", lambda state, config: {"answer": act(WRITER, state, config)})
builder.add_edge(START, "write")
builder.add_edge("write", "judge")
builder.add_conditional_edges("judge", lambda state: END if state["right"] == "yes" else "rewrite", ["rewrite", END])
graph = trainable(builder.compile(), defaults=Options(decoding="constrained"))

if __name__ == "__main__":
    print(graph.invoke("Which planet of the solar system is the largest?"))
