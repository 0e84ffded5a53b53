"""Who speaks when: each topology is a declared LangGraph state graph whose nodes speak through `act`.

    from graphs import load_graph

    graph = load_graph()
    graph.invoke("Who wrote the novel that Blade Runner is based on?")

Importing this package loads no model, no index and no LangGraph: names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphs.acting import aact, act
    from graphs.app import load_graph
    from graphs.collection import collect
    from graphs.options import Options
    from graphs.recorded import trainable
    from graphs.state import Question, Result
    from graphs.trajectory import Trajectory

_HOMES = {
    "act": "graphs.acting",
    "aact": "graphs.acting",
    "load_graph": "graphs.app",
    "collect": "graphs.collection",
    "Options": "graphs.options",
    "Question": "graphs.state",
    "Result": "graphs.state",
    "trainable": "graphs.recorded",
    "Trajectory": "graphs.trajectory",
}
__all__ = [
    "Options",
    "Question",
    "Result",
    "Trajectory",
    "aact",
    "act",
    "collect",
    "load_graph",
    "trainable",
]


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'graphs' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
