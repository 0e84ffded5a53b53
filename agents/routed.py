"""Roles on different backbones: a policy that hands each role's calls to the model that plays it.

Between models there is nothing to batch together, so each sees its own calls alone. Runs on several backbones are
recorded like all others, under a text hash of their own: no single model can be trained on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from agents.call import Completion, Message, Policy, Prompt, Request
from agents.lazy import LazyPolicy


class RoutedPolicy:
    """Implements `agents.call.Policy` over several policies."""

    def __init__(self, default: Policy, roles: Mapping[str, Policy]) -> None:
        """Take who plays what.

        Args:
            default: Plays every role that is not named.
            roles: Role name → policy.
        """
        self._default, self._roles = default, dict(roles)

    def speaker(self, role: str) -> Policy:
        """Return the policy that plays a role."""
        return self._roles.get(role, self._default)

    @property
    def context_length(self) -> int:
        """Return the default policy's context; `speaker` tells each role's own."""
        return self._default.context_length

    @property
    def identity(self) -> Mapping[str, str]:
        """Return the default's identity, its hashes mixed with those of the others."""
        own, others = dict(self._default.identity), {role: self._roles[role].identity for role in sorted(self._roles)}
        for key in ("text", "policy"):
            named = [f"*={own.get(key, '')}", *(f"{role}={other.get(key, '')}" for role, other in others.items())]
            own[key] = "routed:" + blake2b("|".join(named).encode(), digest_size=16).hexdigest()
        bases = [f"{other.get('base', '?')} ({role})" for role, other in others.items()]
        own["base"] = ", ".join([own.get("base", "?"), *bases])
        return own

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """Render as the default policy does; `speaker` tells who renders a role's prompt."""
        return self._default.encode(messages)

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Let each policy answer its roles' requests; results in their order."""
        groups: dict[int, list[int]] = {}
        speakers = [self.speaker(request.role) for request in requests]
        for place, speaker in enumerate(speakers):
            groups.setdefault(id(speaker), []).append(place)
        done: dict[int, Completion] = {}
        for places in groups.values():
            found = speakers[places[0]].sample([requests[place] for place in places])
            done |= dict(zip(places, found, strict=True))
        return [done[place] for place in range(len(requests))]


def speaker_of(policy: Policy, role: str) -> Policy:
    """Return who plays a role: a routed policy's choice, or the policy itself."""
    return policy.speaker(role) if isinstance(policy, RoutedPolicy) else policy


def speakers_of(policy: Policy, adapters: Mapping[str, str | None]) -> dict[str, str]:
    """Return role → hash of who plays it (the adapter's content hash, or the base's), as far as the policy can tell.

    A policy tells by a method `policy_hash(adapter)`; one without it, for the adapter that its identity names alone.

    Args:
        policy: Who answers.
        adapters: Role name → adapter name; None = the base.
    """
    answers = policy.load() if isinstance(policy, LazyPolicy) else policy
    found = {role: _hash(speaker_of(answers, role), name) for role, name in adapters.items()}
    return {role: told for role, told in found.items() if told}


def _hash(speaker: Policy, adapter: str | None) -> str:
    tell = getattr(speaker, "policy_hash", None)
    if tell is not None:
        return str(tell(adapter))
    own = speaker.identity
    return own.get("policy", "") if own.get("adapter", "") == (adapter or "") else ""
