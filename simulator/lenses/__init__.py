"""Synthetic lenses by name: score generators in place of a model."""

from __future__ import annotations

from megacontext.simulator.lenses.adversarial import Adversarial
from megacontext.simulator.lenses.base import LensView, SimLens, ideal_scores
from megacontext.simulator.lenses.biased import Biased
from megacontext.simulator.lenses.constant import Constant
from megacontext.simulator.lenses.delayed import Delayed
from megacontext.simulator.lenses.lattice import Lattice
from megacontext.simulator.lenses.lru import Lru
from megacontext.simulator.lenses.nan import NotANumber
from megacontext.simulator.lenses.noisy import Noisy
from megacontext.simulator.lenses.oracle import Oracle
from megacontext.simulator.lenses.random import Random
from megacontext.simulator.lenses.recency import Recency
from megacontext.simulator.lenses.stale import Stale
from megacontext.simulator.lenses.static import Static
from megacontext.simulator.lenses.wrong_length import WrongLength
from megacontext.simulator.registry import pick

__all__ = ["CONTROLS", "LENSES", "LensView", "SimLens", "ideal_scores", "make_lens"]

_ALL: tuple[type[SimLens], ...] = (
    Oracle,
    Noisy,
    Stale,
    Biased,
    Constant,
    Adversarial,
    NotANumber,
    WrongLength,
    Delayed,
    Random,
    Recency,
    Lru,
    Static,
    Lattice,
)

LENSES: dict[str, type[SimLens]] = {lens.name: lens for lens in _ALL}

CONTROLS = ("random", "recency", "lru", "static")
"""Policies without knowledge of the truth; ``lru`` knows past accesses."""


def make_lens(name: str, seed: int) -> SimLens:
    """The lens called ``name``.

    Raises:
        ConfigError: an unknown name.
    """
    return pick(LENSES, name, "lens")(seed)
