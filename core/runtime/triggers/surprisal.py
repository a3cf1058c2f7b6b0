"""A surprising token triggers a refocus."""

from __future__ import annotations

from megacontext.core.config import TriggersConfig
from megacontext.traces.schema import Trigger

__all__ = ["SurprisalTrigger"]


class SurprisalTrigger:
    """A decoded token of high NLL triggers a refocus; its NLL is known after it is taken in."""

    def __init__(self, config: TriggersConfig) -> None:
        self._threshold = config.surprisal
        self._gap = config.min_gap

    def of(self, nll: float, since: int) -> Trigger | None:
        """The trigger of a token of this NLL (nats), ``since`` tokens after the last refocus."""
        due = 0 < self._threshold < nll and since >= self._gap
        return Trigger.SURPRISAL if due else None
