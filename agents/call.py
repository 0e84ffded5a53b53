"""What one sampled generation is: the request to a policy, its completion, and the record that is kept.

A *call* is one transition of the multi-agent semi-MDP (paper §3.1): a role saw `prompt_ids` and sampled
`response_ids`. It says what happened, never what it was worth; rewards are decided in `training.reward`.
Leaf module but for `recorded_fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict

from agents.recorded_fields import check_fields, flag, many, mapping, number, or_none, text, whole


class Message(TypedDict):
    """One chat turn; JADE's prompts use only the roles "system" and "user"."""

    role: str
    content: str


@dataclass(frozen=True)
class Constraint:
    """The language a response must belong to; exactly one of the two fields is set.

    The allowed set M of each sampled token is a pure function of (constraint, response prefix), so a recorded
    constraint is all that training needs to rebuild M (DESIGN "Sampling").
    """

    choices: tuple[str, ...] = ()
    """A finite set of complete responses, each sampled along its canonical tokenisation (a token
    trie)."""
    regex: str = ""
    """A regular expression (Rust syntax) that the complete response matches."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object stored in a call."""
        return {"choices": list(self.choices)} if self.choices else {"regex": self.regex}

    @staticmethod
    def from_json(data: Mapping[str, Any] | None) -> Constraint | None:
        """Rebuild a constraint from `to_json`, or None from None."""
        if data is None:
            return None
        check_fields("constraint", data, {"choices": many(text), "regex": text})
        return Constraint(choices=tuple(data.get("choices", ())), regex=data.get("regex", ""))


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt as tokens."""

    ids: tuple[int, ...]
    """All prompt tokens, generation prompt included."""
    head: int
    """How many leading tokens are the role's static head (the same for every question); 0 = nothing
    to share."""


@dataclass(frozen=True)
class Request:
    """One generation asked of a policy."""

    key: tuple[str | int, ...]
    """(run seed, question, node path, call index): the key of this call's random numbers, and its
    place in a batch."""
    role: str
    prompt: Prompt
    max_new_tokens: int
    """Budget of response tokens, the stop token included."""
    temperature: float = 1.0
    """τ; 0 means greedy, with log-probabilities recorded at τ = 1."""
    stop: str | None = None
    """Closing tag: the response ends at the first token whose decoded text completes it. None: at
    EOS only."""
    constraint: Constraint | None = None
    """None = free decoding (M is the whole vocabulary)."""
    adapter: str | None = None
    """Name of a loaded adapter; None = the base model."""
    on_text: Callable[[str], None] | None = field(default=None, compare=False)
    """Called with the decoded response so far after each token, for streaming; must be quick and
    never raise."""


@dataclass(frozen=True)
class Completion:
    """What a policy sampled for one `Request`."""

    response_ids: tuple[int, ...]
    """Exactly the sampled tokens; the stop token belongs to it when sampled and is never appended."""
    logprobs: tuple[float, ...]
    """One per response token: log π(a|s) at temperature τ over the allowed set M (τ = 1 when
    greedy); 0.0 where |M| = 1."""
    mask: tuple[int, ...]
    """One per response token: 1 = sampled with |M| ≥ 2, 0 = forced by the constraint (DESIGN
    "Masks")."""
    text: str
    """Decoded response without special tokens, cut right after `Request.stop` where that was
    completed."""
    truncated: bool
    """True when max_new_tokens ended the response."""
    prefill_seconds: float = 0.0
    """This row's share of its batch's prefill wall time."""
    decode_seconds: float = 0.0
    """This row's share of its batch's decoding wall time."""
    batch: int = 1
    """Rows in the batch that this call was decoded in."""


class Policy(Protocol):
    """Anything that plays all roles: `agents.model.SharedModel`, a scripted policy, a server client."""

    @property
    def context_length(self) -> int:
        """Return the most tokens that prompt and response may have together."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Return {"text": hash, "policy": hash, "base": name, "version": str} (DESIGN §6)."""

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """Render chat turns to tokens; no content can yield a special token.

        Raises:
            PromptError: The model has no chat template.
        """

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Sample all requests, in order; how they are batched is the policy's business."""


@dataclass(frozen=True)
class Call:
    """One recorded call: what a role saw, what it sampled, and what its grammar said."""

    id: str
    """Unique within the run: node path and call index, such as "root/1/AG" or "root/1/AG#1"."""
    role: str
    path: str
    """Node path such as "root/1/AG": ours, stable across runs (LangGraph's namespaces hold random
    ids)."""
    parents: tuple[str, ...]
    """Ids of the calls that this one follows in the call DAG (DESIGN §5)."""
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    mask: tuple[int, ...]
    temperature: float
    """τ that the log-probabilities were taken at (1.0 for a greedy call)."""
    greedy: bool
    text: str
    """Decoded response, as given to the parser."""
    value: Any
    """What the graph went on with, as JSON: the parsed value, or the fallback's when `format_error`
    is set."""
    format_error: str | None
    """Why the grammar refused the response; None = valid."""
    truncated: bool
    constraint: Constraint | None = None
    adapter: str | None = None
    dropped_documents: int = 0
    """Whole documents dropped from the tail so that the prompt fits."""
    head: int = 0
    """Length of the prompt's static head in tokens."""
    order: int = 0
    """Position in the depth-first, send-order listing of the run's calls."""
    batch: int = 1
    """Rows in the batch it was decoded in (timing; not part of its identity)."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall seconds: "wait" (queued), "prefill", "decode" (shares of the batch)."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that the ledger stores."""
        data = dict(self.__dict__)
        data["constraint"] = None if self.constraint is None else self.constraint.to_json()
        data["seconds"] = dict(self.seconds)
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Call:
        """Rebuild a call; unknown keys are ignored so that newer ledgers stay readable.

        Raises:
            KeyError: A required field is missing.
            TypeError: A field has another type.
            ValueError: Response, log-probabilities and mask differ in length.
        """
        check_fields("call", data, _FIELDS)
        if not len(data["response_ids"]) == len(data["logprobs"]) == len(data["mask"]):
            raise ValueError(f"call {data['id']}: response_ids, logprobs and mask differ in length")
        fields = {name: data[name] for name in Call.__dataclass_fields__ if name in data}
        for name in ("parents", "prompt_ids", "response_ids", "logprobs", "mask"):
            fields[name] = tuple(data[name])
        fields["constraint"] = Constraint.from_json(data.get("constraint"))
        return Call(**fields)


_FIELDS = {
    **dict.fromkeys(("id", "role", "path", "text"), text),
    **dict.fromkeys(("format_error", "adapter"), or_none(text)),
    **dict.fromkeys(("prompt_ids", "response_ids", "mask"), many(whole)),
    **dict.fromkeys(("dropped_documents", "head", "order", "batch"), whole),
    **dict.fromkeys(("greedy", "truncated"), flag),
    "parents": many(text),
    "logprobs": many(number),
    "temperature": number,
    "constraint": or_none(mapping),
    "seconds": mapping,
}
"""The type of every field of a recorded call, but of `value`, which is its role's business."""
