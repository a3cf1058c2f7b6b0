"""Echoes: the newest tokens repeat an earlier passage, so its continuation is likely to follow.

No lens can predict that a passage will be copied before the copy begins. After its first tokens the
source is known: the position where the longest suffix of the history occurred before. Induction
heads would attend to that position (Olsson et al., "In-context Learning and Induction Heads",
2022) if it were in the window. So the focus does not wait for the end of the block: an echo of a
passage that is not raw triggers a refocus, in which its block scores high.

The state is a function of the history's tokens alone, so a resumed run continues as the unbroken
run would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from megacontext.core.config import EchoConfig
from megacontext.core.focus import WorkingContext
from megacontext.core.focus.actions import F32
from megacontext.core.focus.limits import USER_TRIGGERS
from megacontext.core.runtime.triggers.suffix_index import Suffixes
from megacontext.core.tree.spec import U32
from megacontext.traces.schema import Trigger

__all__ = ["Echo", "EchoTrigger", "Echoes"]


@dataclass(frozen=True, slots=True)
class Echo:
    """A match of n-grams: the ``length`` tokens before ``end`` equal those before
    ``source_position``."""

    end: int
    source_position: int
    length: int

    @property
    def strength(self) -> float:
        """The score of the continuation: 3/4 for a match of 3 tokens, towards 1 for more."""
        return self.length / (self.length + 1)


class Echoes:
    """Finds n-gram matches of the newest tokens with the earlier history.

    Args:
        config: when a match counts as an echo.
        context: the working context; a passage that is raw in it needs no refocus.
        tokens: gives uint32 history tokens [start, stop) that :meth:`first_trigger` did not see.
    """

    def __init__(
        self, config: EchoConfig, context: WorkingContext, tokens: Callable[[int, int], U32]
    ) -> None:
        self._config = config
        self._context = context
        self._history = tokens
        self._suffixes = Suffixes(max(1, config.match))
        self._recent: deque[Echo] = deque()

    def first_trigger(self, tokens: U32, since: int, suppress_tokens: int = 0) -> int | None:
        """Number of tokens up to and with the first that calls for a refocus, or None.

        The session takes these tokens next, or all of them.

        Args:
            tokens: uint32 [t], what follows the working context's history.
            since: tokens since the last refocus.
            suppress_tokens: how many of the next tokens bring no refocus.
        """
        if not self._config.match:
            return None
        self._catch_up()
        for count, token in enumerate(tokens.tolist(), 1):
            echo = self._push(token)
            due = count > suppress_tokens and since + count >= self._config.min_gap
            if echo and due and not self._raw(echo.source_position):
                return count
        return None

    def boost_scores(self, scores: F32, exclusive: bool) -> F32:
        """``scores`` F32[n] of the frontier, raised for the continuations of echoed passages.

        A gist scores high if its passage was echoed within the last ``min_gap`` tokens. A raw
        block scores high as long as an echo of it is in memory.

        Args:
            exclusive: expand nothing else; the lens decides only what to collapse.
        """
        if not self._config.match or np.shape(scores) != (len(self._context),):
            return scores  # the focus reports scores of a wrong length as they are
        self._catch_up()
        boosted = np.array(scores, np.float32)
        if exclusive:
            np.minimum(boosted, 0, out=boosted)

        for echo in self._recent:
            entry = self._entry(echo.source_position)
            recent = echo.end > len(self._suffixes) - self._config.min_gap
            if entry is not None and (recent or self._context.levels[entry] == 0):
                boosted[entry] = max(boosted[entry], echo.strength)
        return boosted

    def modify(self, scores: F32, trigger: Trigger) -> F32:
        """See :class:`~megacontext.core.runtime.triggers.base.ScoreModifier`.

        The scores of a question stay: the question itself says what it is about.
        """
        return (
            scores
            if trigger in USER_TRIGGERS
            else self.boost_scores(scores, exclusive=trigger == Trigger.ECHO)
        )

    def _push(self, token: int) -> Echo | None:
        position, length = self._suffixes.push(token)
        now = len(self._suffixes)
        while self._recent and self._recent[0].end <= now - self._config.remembered:
            self._recent.popleft()
        if not length:
            return None
        self._recent.append(Echo(now, position, length))
        return self._recent[-1]

    def _catch_up(self) -> None:
        """Take in history that no trigger looked at, or that is older than this session."""
        known, now = len(self._suffixes), self._context.n_tokens
        if known >= now:
            return
        old = max(known, now - self._config.remembered)
        if known < old:
            self._suffixes.extend(self._history(known, old))
        for token in self._history(old, now).tolist():
            self._push(token)

    def _entry(self, position: int) -> int | None:
        """Index of the frontier entry that covers a token; None in the tail."""
        if position >= self._context.n_tokens - self._context.tail_tokens:
            return None
        return int(self._context.starts.searchsorted(position, "right")) - 1

    def _raw(self, position: int) -> bool:
        entry = self._entry(position)
        return entry is None or self._context.levels[entry] == 0


class EchoTrigger:
    """A refocus where the newest tokens begin to repeat a passage that is not raw.

    Args:
        echoes: of the session.
        suppressed: how many of the next tokens bring no refocus.
    """

    trigger = Trigger.ECHO

    def __init__(self, echoes: Echoes, suppressed: Callable[[], int]) -> None:
        self._echoes = echoes
        self._suppressed = suppressed

    def first(self, tokens: U32, since: int) -> int | None:
        """See :class:`~megacontext.core.runtime.triggers.base.TriggerRule`."""
        return self._echoes.first_trigger(tokens, since, self._suppressed())
