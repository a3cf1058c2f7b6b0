"""Control lenses, one a file, behind the protocol that LensNet also follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from megacontext.core.lenses.attention import Attention
from megacontext.core.lenses.base import Lens, LensNeeds, Observation, TreeView
from megacontext.core.lenses.bm25 import BM25
from megacontext.core.lenses.oracle import Oracle
from megacontext.core.lenses.random import Random
from megacontext.core.lenses.recency import Recency
from megacontext.core.lenses.similarity import Similarity
from megacontext.traces.errors import ConfigError

__all__ = [
    "BM25",
    "LENSES",
    "Attention",
    "Lens",
    "LensNeeds",
    "Observation",
    "Oracle",
    "Random",
    "Recency",
    "Similarity",
    "TreeView",
    "make_lens",
]

LENSES: dict[str, Callable[..., Lens]] = {
    "recency": Recency,
    "random": Random,
    "similarity": Similarity,
    "attention": Attention,
    "oracle": Oracle,
    "bm25": BM25,
}


def make_lens(kind: str, options: Mapping[str, Any] | None = None) -> Lens:
    """The control lens ``kind`` with its ``options`` (the arguments of its class).

    Raises:
        ConfigError: an unknown kind or option.
    """
    if kind not in LENSES:
        raise ConfigError(f"lens.kind: {kind!r} is unknown; use one of {sorted(LENSES)}.")
    try:
        return LENSES[kind](**dict(options or {}))
    except TypeError as error:
        raise ConfigError(f"lens options for {kind}: {error}.") from error
