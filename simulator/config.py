"""The configuration of one world, as plain JSON, and the swarm that draws configurations."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np

from megacontext.core.allocators import ALLOCATORS
from megacontext.core.config.parser import build
from megacontext.core.focus import Limits, smallest_w_max
from megacontext.core.rng import generator
from megacontext.simulator.faults import FAULTS
from megacontext.simulator.lenses import LENSES
from megacontext.simulator.operations import ARITY
from megacontext.simulator.registry import pick
from megacontext.simulator.streams import STREAMS
from megacontext.traces.errors import ConfigError

__all__ = ["POLICIES", "WorldConfig", "draw_config"]

POLICIES = tuple(name for name in ALLOCATORS if name not in ("learned", "simple", "transformer"))
"""Allocators that need no trained weights (and no torch), without aliases."""


@dataclass(frozen=True)
class WorldConfig:
    """Everything that makes a world, but its operations. Sizes in tokens, blocks or entries.

    Args:
        storage: ``ram`` or ``disk``; only a disk can fail.
        question_tau: the threshold of expansions at a question; None for ``tau_expand``.
        left_context: tokens before a block that its gist depends on.
        dtype: of stored gists: fp16, bf16 or fp32.
        heads: whether the keys of a model's heads lie beside the tree, as ``HEADS.ctx``.
        reopen: whether a question may expand at once what was collapsed just before it.
        keep_newest: raw blocks among so many newest ones are folded by choice only at a question,
            and by force only when no other group is open.
        record: whether the rounds go to a trace on the simulated disk.
        features: weights of the operations that a driver may draw; 0 switches one off.
        faults: names of the faults that may strike.

    Raises:
        ConfigError: an impossible world; the message names field, value and range.
    """

    seed: int = 0
    stream: str = "needle"
    lens: str = "noisy"
    allocator: str = "greedy"
    block_size: int = 8
    max_levels: int = 3
    w_max: int = 128
    protected_blocks: int = 1
    n_diff: int = 4
    tau_expand: float = 0.2
    tau_collapse: float = 0.2
    cooldown_steps: int = 2
    rounds: int = 3
    reopen: bool = True
    keep_newest: int = 0
    question_tau: float | None = None
    left_context: int = 0
    dtype: str = "fp16"
    heads: bool = False
    storage: str = "ram"
    record: bool = False
    recording: str | None = None
    features: dict[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}; use 0 to 2**63 - 1.")
        pick(STREAMS, self.stream, "stream")
        pick(LENSES, self.lens, "lens")
        pick(ALLOCATORS, self.allocator, "allocator")

        if self.storage not in ("ram", "disk"):
            raise ConfigError(f"storage is {self.storage!r}; use ram or disk.")
        if self.dtype not in ("fp16", "bf16", "fp32"):
            raise ConfigError(f"dtype is {self.dtype!r}; use fp16, bf16 or fp32.")

        size = self.block_size
        if not 2 <= size <= 256 or size & (size - 1):
            raise ConfigError(f"block_size is {size}; use a power of two from 2 to 256.")
        for name, value, low, high in (
            ("max_levels", self.max_levels, 1, 8),
            ("protected_blocks", self.protected_blocks, 0, 64),
            ("left_context", self.left_context, 0, 64),
            ("question_tau", self.question_tau or 0.0, 0, 1),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}; use {low} to {high}.")

        _ = self.limits  # refuses what the product refuses
        least = smallest_w_max(size, self.max_levels, self.protected_blocks)
        if not least <= self.w_max <= 1 << 16:
            raise ConfigError(
                f"w_max is {self.w_max}; with block_size {size}, {self.max_levels} levels and "
                f"{self.protected_blocks} protected blocks use {least} to 65536."
            )

        for name in self.features:
            pick(ARITY, name, "feature")
        for name in self.faults:
            pick(FAULTS, name, "fault")

    @property
    def limits(self) -> Limits:
        """Of a refocus at a closed block; its ranges are the product's."""
        return Limits(
            n_diff=self.n_diff,
            tau_expand=self.tau_expand,
            tau_collapse=self.tau_collapse,
            cooldown_steps=self.cooldown_steps,
            rounds=self.rounds,
            keep_newest=self.keep_newest,
        )

    def to_json(self) -> dict[str, object]:
        """Plain values only; :meth:`from_json` is its inverse."""
        plain = asdict(self)
        plain["faults"] = list(self.faults)
        return plain

    @classmethod
    def from_json(cls, raw: object) -> WorldConfig:
        """The config that :meth:`to_json` gave.

        Raises:
            ConfigError: an unknown or missing field, or a value of the wrong type.
        """
        return build(cls, raw)


_ALWAYS = {"append": 40, "refocus": 40}
_STORMY = {"append": 20, "refocus": 8, "commit": 12, "crash": 5, "regist": 2, "fault": 25}
"""For worlds about storage: little focus, many faults."""
_ASKING = {"append": 24, "refocus": 24, "question": 20, "resume": 10, "budget": 4}
"""For worlds about what a focus remembers: questions with limits of their own, and resumes."""

_SOMETIMES = {
    "question": 6,
    "budget": 2,
    "limits": 2,
    "settle": 1,
    "restart": 1,
    "resume": 2,
    "commit": 10,
    "reopen": 2,
    "crash": 4,
    "kill": 1,
    "regist": 1,
    "marker": 2,
    "fault": 8,
}
_DISK_ONLY = frozenset({"commit", "reopen", "crash", "kill", "regist"})


def draw_config(seed: int) -> WorldConfig:
    """A world from the swarm (Groce et al., "Swarm testing", ISSTA 2012): each seed switches
    features on and off, so that rare combinations are not drowned by common ones."""
    rng = generator(seed, "swarm")

    def choose(options: list[str]) -> str:
        return options[int(rng.integers(len(options)))]

    disk = bool(rng.random() < 0.3)
    stormy = disk and bool(rng.random() < 0.6)
    asking = not stormy and bool(rng.random() < 0.3)
    bits = [1, 2, 3, 4, 5, 6, 8]
    size = 1 << int(rng.choice(bits, p=[0.15, 0.3, 0.3, 0.14, 0.08, 0.02, 0.01]))
    max_levels = int(rng.integers(1, 5 if size <= 32 else 3))
    protected = int(rng.integers(0, 4))
    least = smallest_w_max(size, max_levels, protected)
    tight = rng.random() < 0.4
    w_max = (
        least + int(rng.integers(0, 2 * size)) if tight else max(least, int(rng.integers(64, 320)))
    )
    features = dict(_STORMY if stormy else _ASKING if asking else _ALWAYS)
    for name, weight in _SOMETIMES.items():
        if rng.random() < 0.5 and (disk or name not in _DISK_ONLY):
            features.setdefault(name, weight)
    faults = tuple(
        name
        for name, fault in FAULTS.items()
        if rng.random() < 0.5 and (disk or not fault.needs_disk)
    )
    if not faults:
        features.pop("fault", None)
    taus = np.array([0.0, 0.125, 0.2, 0.2, 0.25, 0.25, 0.5])  # eighths are scores exactly
    tau_expand = float(rng.choice(taus))
    others = taus[taus != tau_expand] if asking else taus
    return WorldConfig(
        seed=seed,
        stream=choose([name for name in STREAMS if name != "recorded"]),
        lens=choose([*LENSES, *["lattice"] * (len(LENSES) if asking else 2)]),
        allocator=choose(["greedy", *POLICIES]),
        block_size=size,
        max_levels=max_levels,
        w_max=w_max,
        protected_blocks=protected,
        n_diff=int(
            rng.choice([1024, 100, 16, 1 + int(rng.integers(8))], p=[0.02, 0.03, 0.05, 0.9])
        ),
        tau_expand=tau_expand,
        tau_collapse=float(rng.choice(taus)),
        cooldown_steps=int(rng.choice([64, 16, int(rng.integers(0, 5))], p=[0.04, 0.06, 0.9])),
        rounds=int(rng.integers(1, 5)),
        storage="disk" if disk else "ram",
        record=bool(rng.random() < (0.4 if disk else 0.05)),
        features=features,
        faults=faults,
        reopen=bool(rng.random() < 0.8),
        keep_newest=int(rng.integers(1, 12)) if rng.random() < 0.4 else 0,
        question_tau=float(rng.choice(others)) if asking or rng.random() < 0.3 else None,
        left_context=int(rng.integers(1, min(2 * size, 64) + 1)) if rng.random() < 0.3 else 0,
        dtype=choose(["fp16", "fp16", "bf16", "fp32"]),
        heads=disk and bool(rng.random() < 0.3),
    )
