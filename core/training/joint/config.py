"""Settings of a joint run: its phases, the drift guard, and the held-out evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megacontext.core.config.settings import Count
from megacontext.core.training.lora.dataset import WindowMix
from megacontext.traces.errors import ConfigError

__all__ = ["DriftGuard", "JointEvaluation", "JointPhase", "JointTraining", "PhaseKind"]

PhaseKind = Literal["gistnet", "lensnet", "lora"]


@dataclass(frozen=True)
class JointPhase:
    """One phase of every cycle.

    Attributes:
        train: what is trained; the other two parts are frozen.
        config: training config of that part, as for ``megacontext train gistnet``. The joint run
            fills in ``base``, ``adapter``, ``gistnet``, ``shards``, ``heldout``, ``dtype`` and
            ``loop.seed``.
        set: overrides of that config, ``key.path=value`` each.
    """

    train: PhaseKind
    config: str
    set: tuple[str, ...] = ()


@dataclass(frozen=True)
class DriftGuard:
    """How far the refreshed base model may fall behind the original one without MegaContext.

    Attributes:
        vanilla_nll_rise: on raw held-out text, in nats per token.
        task_nll_rise: on the answers of short-context tasks, in nats per answer token.
    """

    vanilla_nll_rise: float = 0.02
    task_nll_rise: float = 0.05


@dataclass(frozen=True)
class JointEvaluation:
    """The held-out windows that every phase is judged on; they never change during a run.

    Attributes:
        vanilla_rows: raw windows per domain; vanilla_length: their tokens.
        tasks: questions about facts in a raw window of task_length tokens.
        batches: of mixed windows (raw blocks and gists), drawn from ``windows``.
    """

    vanilla_rows: Count = 8
    vanilla_length: Count = 1024
    tasks: Count = 48
    task_length: Count = 512
    batches: Count = 8
    windows: WindowMix = field(default_factory=lambda: WindowMix(rows=8))


@dataclass(frozen=True)
class JointTraining:
    """Everything that a joint run is made from.

    Attributes:
        base: folder of the base model; its own weights never change.
        gistnet: folder of the GistNet to start from, with index keys.
        lensnet: folder of the LensNet to start from; empty: the first lensnet phase starts anew.
        adapter: folder of the LoRA adapter to start from; empty: none.
        shards, heldout: prepared text, see ``megacontext data prepare``.
        phases: the phases of one cycle, in order.
        cycles: how often they are repeated; each cycle draws other batches.
        tolerance: a phase may worsen its metric by this much and is kept all the same.
        sinks: where the metrics of the joint run go, besides ``metrics.csv``.
    """

    base: str
    gistnet: str
    shards: str
    heldout: str
    phases: tuple[JointPhase, ...]
    lensnet: str = ""
    adapter: str = ""
    cycles: Count = 1
    seed: int = 0
    tolerance: float = 0.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    guard: DriftGuard = field(default_factory=DriftGuard)
    evaluation: JointEvaluation = field(default_factory=JointEvaluation)
    sinks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError("phases: the list is empty; name at least one phase.")
