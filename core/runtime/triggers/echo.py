"""Echoes: the newest tokens repeat an earlier passage, and what followed it is likely to follow.

Text that is about to be copied cannot be told before the copy begins: no lens foresees it. Once
its first tokens are there it can be, exactly: it is where the longest suffix of the history stood
before, the place that induction heads would attend to (Olsson et al., "In-context Learning and
Induction Heads", 2022), were it in the window. So the focus need not wait for the block's end:
an echo of a passage that is not raw triggers a refocus, and its block scores high there.

All that is remembered is a function of the history's tokens, so an interrupted run goes on as it
would have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from megacontext.core.config import EchoConfig
from megacontext.core.focus import WorkingContext
from megacontext.core.focus.actions import F32
from megacontext.core.runtime.triggers.base import ASKED
from megacontext.core.runtime.triggers.suffix_index import Suffixes
from megacontext.core.tree.spec import U32
from megacontext.traces.schema import Trigger

__all__ = ["Echo", "EchoTrigger", "Echoes"]


@dataclass(frozen=True, slots=True)
class Echo:
    """After token ``heard`` the last ``length`` tokens are those before ``place``."""

    heard: int
    place: int
    length: int

    @property
    def strength(self) -> float:
        """The score of what follows the passage: 3/4 for 3 tokens, towards 1 for more."""
        return self.length / (self.length + 1)


class Echoes:
    """Hears echoes in the tokens of a session.

    Args:
        config: when they count.
        context: the working context; what is raw in it need not be fetched.
        tokens: gives uint32 history tokens [start, stop) that were never listened to.
    """

    def __init__(
        self, config: EchoConfig, context: WorkingContext, tokens: Callable[[int, int], U32]
    ) -> None:
        self._config = config
        self._context = context
        self._history = tokens
        self._suffixes = Suffixes(max(1, config.match))
        self._recent: deque[Echo] = deque()

    def listen(self, tokens: U32, since: int, quiet: int = 0) -> int | None:
        """Number of tokens up to and with the first that calls for a refocus, or None.

        The session takes these tokens next, or all of them.

        Args:
            tokens: uint32 [t], what follows the working context's history.
            since: tokens since the last refocus.
            quiet: the first so many tokens call for none.
        """
        if not self._config.match:
            return None
        self._catch_up()
        for count, token in enumerate(tokens.tolist(), 1):
            echo = self._hear(token)
            due = count > quiet and since + count >= self._config.min_gap
            if echo and due and not self._raw(echo.place):
                return count
        return None

    def lift(self, scores: F32, alone: bool) -> F32:
        """``scores`` F32[n] of the frontier, with what follows the echoed passages on top.

        A gist scores high where its passage was echoed just now, a raw block as long as an echo
        of it is remembered.

        Args:
            alone: nothing else is to be opened; the lens only says what can be coarser.
        """
        if not self._config.match or np.shape(scores) != (len(self._context),):
            return scores  # what a lens gives that is no score is reported as it is
        self._catch_up()
        lifted = np.array(scores, np.float32)
        if alone:
            np.minimum(lifted, 0, out=lifted)
        for echo in self._recent:
            at = self._entry(echo.place)
            fresh = echo.heard > len(self._suffixes) - self._config.min_gap
            if at is not None and (fresh or self._context.levels[at] == 0):
                lifted[at] = max(lifted[at], echo.strength)
        return lifted

    def modify(self, scores: F32, trigger: Trigger) -> F32:
        """See :class:`~megacontext.core.runtime.triggers.base.ScoreModifier`.

        A question says itself what it is about: its scores stay.
        """
        return scores if trigger in ASKED else self.lift(scores, alone=trigger == Trigger.ECHO)

    def _hear(self, token: int) -> Echo | None:
        place, length = self._suffixes.push(token)
        now = len(self._suffixes)
        while self._recent and self._recent[0].heard <= now - self._config.remembered:
            self._recent.popleft()
        if not length:
            return None
        self._recent.append(Echo(now, place, length))
        return self._recent[-1]

    def _catch_up(self) -> None:
        """Take in history that came in otherwise, or before this session."""
        known, now = len(self._suffixes), self._context.n_tokens
        if known >= now:
            return
        old = max(known, now - self._config.remembered)
        if known < old:
            self._suffixes.extend(self._history(known, old))
        for token in self._history(old, now).tolist():
            self._hear(token)

    def _entry(self, place: int) -> int | None:
        """Frontier entry that stands for a token; None in the tail."""
        if place >= self._context.n_tokens - self._context.tail_tokens:
            return None
        return int(self._context.starts.searchsorted(place, "right")) - 1

    def _raw(self, place: int) -> bool:
        at = self._entry(place)
        return at is None or self._context.levels[at] == 0


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
        return self._echoes.listen(tokens, since, self._suppressed())
