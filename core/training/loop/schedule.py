"""How long a run lasts, and the learning rate along the way."""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.traces.errors import ConfigError

__all__ = ["Budget", "Schedule"]


@dataclass(frozen=True)
class Budget:
    """When training ends: after ``steps`` (exactly repeatable) or ``max_minutes`` of wall clock.

    With ``max_minutes`` the progress that drives phases and learning rate is the elapsed share
    of the time, so that the decay finishes inside the budget on a machine of any speed.
    """

    steps: int = 0
    max_minutes: float = 0.0

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.max_minutes > 0):
            raise ConfigError(
                f"budget: steps {self.steps} and max_minutes {self.max_minutes:g} must be one "
                "above 0 and one 0; choose which of the two ends the run."
            )


@dataclass(frozen=True)
class Schedule:
    """Warm-up, constant, decay ("WSD"): multiplies the peak learning rates.

    ``warmup_steps`` is in steps; ``decay`` is the last share of the progress, over which the
    factor falls linearly to ``final``.
    """

    warmup_steps: int = 100
    decay: float = 0.4
    final: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ConfigError(f"schedule.decay: {self.decay} is outside 0 to 1.")

    def factor(self, step: int, progress: float) -> float:
        """Learning-rate factor of step ``step`` (from 0) at ``progress`` in [0, 1]."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = 1.0 - min(1.0, max(0.0, progress))
        if self.decay <= 0 or left >= self.decay:
            return warm
        return warm * (self.final + (1 - self.final) * left / self.decay)
