"""Breakpoints at any depth: LangGraph stops before (or after) nodes of the outermost graph only.

A run that names a node of a subgraph runs on a copy in which that subgraph stops by itself; whoever resumes it
needs no copy, since a checkpoint knows nodes by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from langgraph.pregel import Pregel

from agents.errors import ConfigError

G = TypeVar("G", bound="Pregel[Any, Any, Any, Any]")
SIDES = ("interrupt_before", "interrupt_after")


def with_breakpoints(graph: G, kwargs: Mapping[str, Any]) -> G:
    """Return `graph`, or a copy whose subgraphs stop at the nodes that `stream`'s keyword arguments name.

    Raises:
        ConfigError: No graph has a node of that name.
    """
    given = {side: kwargs.get(side) for side in SIDES}
    named = {side: list(names) for side, names in given.items() if names and not isinstance(names, str)}
    inner = {name for names in named.values() for name in names if name not in graph.nodes}
    if not inner:
        return graph
    parts = [graph, *(part for _, part in graph.get_subgraphs(recurse=True))]
    known = {name for part in parts if isinstance(part, Pregel) for name in part.nodes if not name.startswith("__")}
    if not inner <= known:
        raise ConfigError(f"no node {sorted(inner - known)} to stop at; the nodes are {', '.join(sorted(known))}")
    return _copy(graph, named, {})


def _copy(graph: G, named: Mapping[str, Sequence[str]], made: dict[int, Any]) -> G:
    if id(graph) not in made:
        nodes = {
            name: node.copy({"bound": _copy(node.bound, named, made)}) if isinstance(node.bound, Pregel) else node
            for name, node in graph.nodes.items()
        }
        stops = {f"{side}_nodes": [name for name in names if name in nodes] for side, names in named.items()}
        made[id(graph)] = graph.copy({"nodes": nodes, **stops})
    copy: G = made[id(graph)]
    return copy
