"""Who knows the tiny world: an oracle that plays every role, and the regret of a plan against the best one.

`OraclePolicy` is a real policy: put into the real graphs, it leaves recorded executions whose token rows
are a warm start in exactly the prompts that training will see. Its executors are as good as the documents
allow; its planner is perfect, or uniform over the legal plans (a mediocre start that leaves PPO something
to find). On a question that a plan does not suit, its decomposers answer validly but uselessly, so that the
wrong plan costs the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from agents.call import Completion, Message, Prompt, Request
from agents.model_prompt import PromptEncoder
from agents.planner import PLANNER
from agents.workflow import BY_TEXT, Grammar, Module, Topology, Workflow, parse_forced
from evaluation.metrics import token_f1
from training.reward import outcome_reward
from training.tinyworld import PERSON_RELATIONS, Ask, World, read_ask

UNKNOWN = "unknown"
"""What the oracle answers where the documents do not say."""
TOP_K = 3
"""Passages of one entity."""


def best_plan(question: str) -> str:
    """Return the plan that answers at the least cost: R,AG, QDS or QDP."""
    ask = read_ask(question)
    return {"serial": "QDS", "parallel": "QDP"}.get(ask.type if ask else "single", "R,AG")


def decompose(question: str, serial: bool) -> tuple[str, ...]:
    """Return what the oracle's decomposers write: always valid, right where the topology suits."""
    ask = read_ask(question)
    if ask is None:
        return ()
    if ask.type == "parallel":
        return tuple(Ask(ask.relations, (entity,)).text for entity in ask.entities)
    start = ask.entities
    if ask.type == "serial":
        return (Ask(ask.relations[:1], start).text, Ask(ask.relations[1:], ("#1",) if serial else start).text)
    others = [relation for relation in PERSON_RELATIONS if relation not in ask.relations]
    if serial:
        return (Ask((others[0],), start).text, Ask(ask.relations, ("#1",)).text)
    return (Ask((others[0],), start).text, Ask((others[1],), start).text)


def generate(question: str, documents: Sequence[tuple[str, str]]) -> str:
    """Return what (title, text) documents hold of the answer, or "unknown"."""
    ask = read_ask(question)
    known = {(title, *text.split(" ", 1)[:1]): text.split(" ", 1)[-1] for title, text in documents}
    if ask is None or len(ask.relations) > 1:
        return UNKNOWN
    found = [known[entity, ask.relations[0]] for entity in ask.entities if (entity, ask.relations[0]) in known]
    return ", ".join(found) or UNKNOWN


def summarise(question: str, answers: Sequence[str]) -> str:
    """Return the oracle summariser's answer: all hops' for a parallel question, else the last hop's."""
    ask = read_ask(question)
    if not answers:
        return UNKNOWN
    return ", ".join(answers) if ask is not None and ask.type == "parallel" else answers[-1]


@dataclass(frozen=True)
class Outcome:
    """What a plan yields in the oracle's hands."""

    answer: str
    turns: int
    retrievals: int


def simulate(world: World, question: str, workflow: Workflow | Mapping[str, Any]) -> Outcome:
    """Carry out a plan with the oracle's executors, without a graph.

    Args:
        world: Where it happens.
        question: In this world's language.
        workflow: A `Workflow`, or a recorded tree {"plan", "children"} (`Trajectory.workflow`). Children
            without a plan of their own follow R,AG.
    """
    plan, children = _read_plan(workflow)
    if plan.topology is Topology.SINGLE_ROUND:
        retrieves = Module.R in plan.modules
        found = world.look_up(question, TOP_K) if retrieves else []
        answer = generate(question, [(passage["title"], passage["text"]) for passage in found])
        return Outcome(answer, 1, int(retrieves))
    serial = plan.topology is Topology.QDS
    hops: list[Outcome] = []
    for index, item in enumerate(decompose(question, serial)):
        resolved = re.sub(r"#(\d)", lambda match: hops[int(match[1]) - 1].answer, item)
        hops.append(simulate(world, resolved, children[index] if index < len(children) else BY_TEXT["R,AG"]))
    turns = plan.topology.turns([hop.turns for hop in hops])
    answer = summarise(question, [hop.answer for hop in hops])
    return Outcome(answer, turns, sum(hop.retrievals for hop in hops))


def _read_plan(workflow: Workflow | Mapping[str, Any]) -> tuple[Workflow, Sequence[Workflow | Mapping[str, Any]]]:
    if isinstance(workflow, Workflow):
        return workflow, [workflow.child or BY_TEXT["R,AG"]] * 4
    return BY_TEXT[workflow["plan"]], workflow.get("children", ())


def plan_value(
    world: World,
    question: str,
    workflow: str | Workflow | Mapping[str, Any],
    alpha: float = 0.0,
    beta: float = 0.0,
) -> float:
    """Return the reward R that a plan earns in the oracle's hands (DESIGN §5 "Reward").

    Args:
        world: Where it happens.
        question: In this world's language.
        workflow: Such as "R,AG" or "QDS/R,DS,AG", a `Workflow`, or a recorded tree.
        alpha: Price of turns.
        beta: Price of retrievals.

    Raises:
        ConfigError: A text that is no plan.
        ValueError: The question is not of this world.
    """
    ask = read_ask(question)
    if ask is None:
        raise ValueError(f"{question!r} is not a question of the tiny world")
    outcome = simulate(world, question, parse_forced(workflow) if isinstance(workflow, str) else workflow)
    score = token_f1(outcome.answer, [", ".join(world.answers(ask))])
    return outcome_reward(score, outcome.turns, outcome.retrievals, alpha, beta)


def regret(
    world: World,
    question: str,
    workflow: str | Workflow | Mapping[str, Any],
    alpha: float = 0.0,
    beta: float = 0.0,
) -> float:
    """Return how much R a plan gives away against the best plan, both in the oracle's hands; ≥ 0.

    Arguments and errors as `plan_value`. The best is over all plans, with R,AG for the hops.
    """
    best = max(plan_value(world, question, plan, alpha, beta) for plan in BY_TEXT)
    return max(0.0, best - plan_value(world, question, workflow, alpha, beta))


class OraclePolicy:
    """Plays every role of JADE's graphs in the tiny world; implements `agents.call.Policy`.

    For warm starts only: its recorded log-probabilities are nominal zeros, so replay parity refuses its
    runs. With a uniform planner, hops of misfit decompositions may ask any question, dev strings included,
    but of other facts in a sibling world.
    """

    def __init__(
        self, tokenizer: Any, planner: Literal["best", "uniform"] = "best", seed: int = 0, context_length: int = 512
    ) -> None:
        """Bind to the tokenizer of the model that will learn from it."""
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer)
        self._turns: dict[tuple[int, ...], str] = {}
        self._planner = planner
        self._seed = seed
        self._context_length = context_length

    @property
    def context_length(self) -> int:
        """Return the most tokens that prompt and response may have together."""
        return self._context_length

    @property
    def identity(self) -> Mapping[str, str]:
        """Return names that no trained policy has."""
        return {"text": "oracle", "policy": f"oracle-{self._planner}", "base": "oracle", "version": "0"}

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """Render chat turns as the learning model will see them."""
        prompt = self._encoder.encode(messages)
        self._turns[prompt.ids] = messages[-1]["content"]
        return prompt

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer every request from the lines of its user turn."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Completion:
        text = self.respond(request.role, self._turns[request.prompt.ids], request.key)
        ids = tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if request.stop is None:
            ids += (self._tokenizer.eos_token_id,)
        cut = ids[: request.max_new_tokens]
        return Completion(cut, (0.0,) * len(cut), (1,) * len(cut), text, truncated=len(cut) < len(ids))

    def respond(self, role: str, user: str, key: Sequence[str | int] = ()) -> str:
        """Return the response of a role to a user turn; `key` seeds the uniform planner."""
        fields = dict(line.split(": ", 1) for line in user.splitlines() if ": " in line)
        documents = {name: text for name, text in fields.items() if name.startswith("Document")}
        question = fields.get("Question", fields.get("Query", ""))
        if role == PLANNER.name:
            return f"<workflow>{self._plan(question, fields['Left'], key)}</workflow>"
        if role in ("serial_decomposer", "parallel_decomposer"):
            items = decompose(question, role == "serial_decomposer")
            return "".join(f"<q{number}>{item}</q{number}>" for number, item in enumerate(items, 1))
        if role == "query_rewriter":
            return f"<query>{question.removeprefix('What is the ').rstrip('?')}</query>"
        if role == "document_selector":
            return f"<id>{','.join(_useful(question, documents))}</id>"
        if role == "answer_generator":
            return f"<answer>{generate(question, [_document(text) for text in documents.values()])}</answer>"
        hops = [line.rsplit(" = ", 1)[1] for line in user.splitlines() if " = " in line]
        return f"<answer>{summarise(question, hops)}</answer>"

    def _plan(self, question: str, left: str, key: Sequence[str | int]) -> str:
        budget = {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", left)}
        legal = Grammar(budget["depth"], budget.get("turns"), budget.get("retrievals"))
        plans = [workflow.plan for workflow in legal.plans]
        if self._planner == "best":
            wanted = best_plan(question)
            return wanted if wanted in plans else legal.fallback().plan
        digits = [byte for part in key for byte in str(part).encode()]
        return plans[int(np.random.default_rng([self._seed, *digits]).integers(len(plans)))]


def _document(text: str) -> tuple[str, str]:
    title, _, body = text.partition(" | ")
    return title, body


def _useful(query: str, documents: Mapping[str, str]) -> list[str]:
    """Return the names of the documents on a relation that the query names."""
    words = set(re.findall(r"\w+", query))
    return [name for name, text in documents.items() if _document(text)[1].split(" ", 1)[0] in words]
