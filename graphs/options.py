"""Per-call options of a graph: typed, described (LangGraph Studio renders them), refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.errors import ConfigError
from agents.workflow import check_forced, parse_forced
from graphs.costs import Cost

Record = Literal["off", "on", "train"]
Decoding = Literal["free", "constrained"]
Select = Literal["role", "full"]


class Options(BaseModel):
    """What one question may cost, how it is sampled, and whether it is recorded."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    max_turns: int | None = Field(
        None, ge=1, le=64, description="Most turns (planned rounds) of a run; empty = no limit."
    )
    max_retrievals: int | None = Field(None, ge=0, le=64, description="Most retrievals of a run; 0 = closed book.")
    max_depth: int | None = Field(
        None,
        ge=0,
        le=2,
        description=("Deepest decomposition; 0 = chains only, 1 = the paper's released behaviour; empty = as built."),
    )
    max_new_tokens: int | None = Field(None, ge=1, le=2048, description="Cap on every role's own token budget.")
    temperature: float | None = Field(
        None, ge=0.0, le=5.0, description="0 = greedy. Empty = 0, or 1 when record is 'train'."
    )
    seed: int = Field(0, ge=0, description="Key of all random numbers of the run.")
    workflow: str | None = Field(
        None,
        description=("Force a plan, such as 'R,AG' or 'QDS/R,DS,AG'; no planner call is made. Empty = planned."),
    )
    record: Record = Field("on", description=("'off', 'on', or 'train' (samples at temperature 1, for training)."))
    decoding: Decoding = Field(
        "free",
        description=("'free' or 'constrained' (only what the role's grammar allows is sampled)."),
    )
    cost: Cost = Field(
        "default",
        description=("'low', 'default' or 'high': which adapter of a sweep over prices plays all roles, if loaded."),
    )
    select: Select = Field("role", description=("What a role sees of the run: its own view, or everything (ablation)."))
    question_id: str | None = Field(None, description="Your id of the question; gold answers are joined by it.")

    @property
    def tau(self) -> float:
        """Return the sampling temperature in force; 0 = greedy."""
        if self.temperature is not None:
            return self.temperature
        return 1.0 if self.record == "train" else 0.0


def read_options(values: Mapping[str, Any], defaults: Options | None = None) -> Options:
    """Build options from user input over `defaults`.

    Raises:
        ConfigError: An unknown name, an impossible value, or a plan that the budgets forbid; the message names it
            and what is allowed.
    """
    merged = {**(defaults.model_dump() if defaults else {}), **values}
    try:
        options = Options.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(problem) for problem in error.errors())) from None
    if options.record == "train" and options.tau == 0.0:
        raise ConfigError("record='train' with temperature 0: greedy runs cannot be trained on; drop one of the two")
    if options.workflow:
        check_forced(parse_forced(options.workflow), options)
    return options


def _explain(problem: Mapping[str, Any]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "options"
    if problem["type"] == "extra_forbidden":
        return f"unknown option {name!r}; allowed: {', '.join(Options.model_fields)}"
    allowed = Options.model_fields[name].description if name in Options.model_fields else ""
    return f"option {name}={problem['input']!r}: {problem['msg']}. {allowed}"
