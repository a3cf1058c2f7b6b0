"""Allocators: one policy a file behind one small protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from megacontext.core.allocators.greedy import Greedy
from megacontext.core.allocators.learned import Learned, Policy
from megacontext.core.allocators.optimal import Optimal
from megacontext.core.allocators.policy import MlpPolicy
from megacontext.core.allocators.slot import Slot
from megacontext.core.allocators.stochastic_greedy import StochasticGreedy
from megacontext.core.config import AllocatorConfig, allocator_options
from megacontext.core.focus.view import Allocator, AllocatorView, Decision
from megacontext.traces.errors import ConfigError

__all__ = [
    "ALLOCATORS",
    "Allocator",
    "AllocatorView",
    "Decision",
    "Greedy",
    "Learned",
    "MlpPolicy",
    "Optimal",
    "Policy",
    "Slot",
    "StochasticGreedy",
    "allocator_config",
    "make_allocator",
]

ALLOCATORS: dict[str, Callable[..., Allocator]] = {
    "greedy": Greedy,
    "simple": Greedy,
    "stochastic_greedy": StochasticGreedy,
    "slot": Slot,
    "optimal": Optimal,
    "learned": Learned,
    "transformer": Learned,
}
"""Kinds by name; ``simple`` is an alias of ``greedy``, ``transformer`` of ``learned``."""


def make_allocator(kind: str, options: Mapping[str, Any] | None = None) -> Allocator:
    """The allocator ``kind`` with its ``options`` (the arguments of its class).

    Raises:
        ConfigError: an unknown kind or option, or an impossible value.
    """
    if kind not in ALLOCATORS:
        raise ConfigError(f"allocator.kind: {kind!r} is unknown; use one of {sorted(ALLOCATORS)}.")
    try:
        return ALLOCATORS[kind](**dict(options or {}))
    except TypeError as error:
        raise ConfigError(f"allocator options for {kind}: {error}.") from error


def allocator_config(allocator: Allocator) -> AllocatorConfig | None:
    """The config that gives an equal allocator; None for one that no config gives."""
    match allocator:
        case StochasticGreedy(temperature=temperature, top_k=top_k):
            config = AllocatorConfig(allocator.name, temperature=temperature, top_k=top_k)
        case Slot(temperature=temperature):
            config = AllocatorConfig(allocator.name, temperature=temperature)
        case Greedy() | Optimal():
            config = AllocatorConfig(allocator.name)
        case _:
            return None
    again = make_allocator(config.kind, allocator_options(config))
    return config if again == allocator else None
