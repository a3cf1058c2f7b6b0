"""A question mark in the text triggers a refocus."""

from __future__ import annotations

import numpy as np

from megacontext.core.config import TriggersConfig
from megacontext.core.tree.spec import U32
from megacontext.traces.schema import Trigger

__all__ = ["QuestionMarkTrigger"]


class QuestionMarkTrigger:
    """Tokens whose text ends in a question mark, by id.

    Args:
        pieces: the text of every token id, in order.
        config: whether question marks count, and how far apart.
    """

    trigger = Trigger.QUESTION

    def __init__(self, pieces: list[str], config: TriggersConfig) -> None:
        self._ends = np.array([p.rstrip().endswith("?") for p in pieces], bool)
        self._enabled = config.question_mark
        self._gap = config.min_gap

    def first(self, tokens: U32, since: int) -> int | None:
        """See :class:`~megacontext.core.runtime.triggers.base.TriggerRule`."""
        if not self._enabled:
            return None
        matches = np.flatnonzero(self._ends[tokens]) + 1
        matches = matches[matches + since >= self._gap]
        return int(matches[0]) if len(matches) else None
