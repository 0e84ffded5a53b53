"""The graphs that `langgraph.json` names: the whole one and each topology alone, around one model and one index.

They are made when the server imports this module, in a thread, since the server calls factories on its event
loop and anew for every request. The model is loaded with the first question.
"""

from __future__ import annotations

from graphs.app import load_graph
from graphs.jade import GraphName
from graphs.recorded import RecordedGraph

jade = load_graph(lazy=True)
"""Plans, then runs one of the three topologies."""


def _alone(topology: GraphName) -> RecordedGraph:
    whole = jade.recorder
    graph = load_graph(topology=topology, retriever=whole.retriever, lazy=True)
    return graph.with_recorder(batcher=whole.batcher, ledger=whole.ledger)


single_round = _alone("single_round")
qds = _alone("qds")
qdp = _alone("qdp")
