"""A policy that says what a script tells it, and a keyword retriever over a list: real, at toy size."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.call import Completion, Message, Prompt, Request
from agents.passage import Passage
from graphs.ledger import LedgerWriter
from graphs.recorded import RecordedGraph, trainable
from graphs.trajectory import Trajectory

Script = Callable[[str, str], str]
"""(role name, user turn) → response text."""
TURN, END = 0, 1


def encode_text(text: str) -> list[int]:
    """Return one token for every four bytes; each token holds its bytes behind a leading 1."""
    data = text.encode()
    return [int.from_bytes(b"\x01" + data[start : start + 4], "big") for start in range(0, len(data), 4)]


def decode_ids(ids: Sequence[int]) -> str:
    """Undo `encode_text`; END and TURN vanish."""
    pieces = [token.to_bytes(5, "big").lstrip(b"\x00")[1:] for token in ids if token > END]
    return b"".join(pieces).decode(errors="replace")


@dataclass
class ScriptedPolicy:
    """Plays every role by a script; remembers what it was asked and in which batches."""

    script: Script
    context_length: int = 100_000
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(role, user turn) of every request, in the order of sampling."""
    batches: list[list[Request]] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    @property
    def identity(self) -> Mapping[str, str]:
        return {"text": "toy", "policy": "script", "base": "scripted", "version": "0"}

    def encode(self, messages: Sequence[Message]) -> Prompt:
        system, user = (encode_text(message["content"]) for message in messages)
        return Prompt((*system, TURN, *user, TURN), len(system) + 1)

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        with self.lock:
            self.batches.append(list(requests))
            return [self._say(request, len(requests)) for request in requests]

    def _say(self, request: Request, batch: int) -> Completion:
        user = decode_ids(request.prompt.ids[request.prompt.head :])
        self.asked.append((request.role, user))
        text = self.script(request.role, user)
        ids = [*encode_text(text), END]
        truncated = len(ids) > request.max_new_tokens
        ids = ids[: request.max_new_tokens]
        for end in range(1, len(ids) + 1):
            if request.on_text is not None:
                request.on_text(decode_ids(ids[:end]))
        scores = (-0.5,) * len(ids)
        return Completion(tuple(ids), scores, (1,) * len(ids), decode_ids(ids), truncated, 0.0, 0.0, batch)

    @property
    def roles(self) -> list[str]:
        """Return who spoke, in order."""
        return [role for role, _ in self.asked]

    def seen(self, role: str) -> list[str]:
        """Return the user turns that a role was given."""
        return [user for name, user in self.asked if name == role]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


@dataclass
class ListRetriever:
    """Ranks passages by how many query words they hold, then by place in the list."""

    passages: Sequence[tuple[str, str, str]]
    """(id, title, text)."""
    queries: list[str] = field(default_factory=list)

    @property
    def identity(self) -> Mapping[str, str]:
        return {"environment": hashlib.sha256(repr(self.passages).encode()).hexdigest()[:12], "collection": "list"}

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.queries.extend(queries)
        return [self._one(query, k) for query in queries]

    def _one(self, query: str, k: int) -> list[Passage]:
        wanted = _words(query)
        scored = [
            (len(wanted & _words(f"{title} {text}")), -place) for place, (_, title, text) in enumerate(self.passages)
        ]
        best = sorted(range(len(scored)), key=lambda place: scored[place], reverse=True)[:k]
        return [
            {
                "id": self.passages[place][0],
                "title": self.passages[place][1],
                "text": self.passages[place][2],
                "score": float(scored[place][0]),
            }
            for place in best
        ]


PASSAGES = (
    ("mozart", "Mozart", "Mozart was born in Salzburg, a town of the Archbishop."),
    ("mayor", "Salzburg", "The mayor of Salzburg is Bernhard Auinger."),
    ("k2", "K2", "K2 is 8611 m tall."),
    ("blanc", "Mont Blanc", "Mont Blanc is 4806 m tall."),
    ("noise", "", "Nothing to see here."),
)


@dataclass
class Recording:
    """A recorded graph beside its policy, its retriever and the trajectories it left."""

    graph: RecordedGraph
    policy: ScriptedPolicy
    retriever: ListRetriever
    trajectories: list[Trajectory] = field(default_factory=list)

    def ask(self, question: str, **options: Any) -> tuple[dict[str, Any], Trajectory]:
        """Invoke the graph; return the result and the trajectory."""
        result = self.graph.invoke(question, **options)
        return result, self.trajectories[-1]


def record(build: Callable[[ListRetriever], Any], script: Script, folder: Path, **extra: Any) -> Recording:
    """Build a graph over `PASSAGES` and make it recorded."""
    policy = ScriptedPolicy(script, **{key: extra.pop(key) for key in ("context_length",) if key in extra})
    retriever = extra.pop("retriever", None) or ListRetriever(PASSAGES)
    graph = trainable(build(retriever), policy=policy, retriever=retriever, ledger=LedgerWriter(folder), **extra)
    recording = Recording(graph, policy, retriever)
    recording.graph = graph.with_recorder(on_close=recording.trajectories.append)
    return recording


def says(**responses: Any) -> Script:
    """Return a script: role name → response, or function of the user turn; tags are added where absent."""
    tags = {
        "planner": "workflow",
        "query_rewriter": "query",
        "document_selector": "id",
        "answer_generator": "answer",
        "answer_summariser": "answer",
    }

    def script(role: str, user: str) -> str:
        if role not in responses:
            raise AssertionError(f"{role} was not expected to speak: {user}")
        response = responses[role]
        text = str(response(user) if callable(response) else response)
        return text if "<" in text or role not in tags else f"<{tags[role]}>{text}</{tags[role]}>"

    return script
