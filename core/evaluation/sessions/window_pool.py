"""The KV windows of an evaluation: allocated once, handed out again and again."""

from __future__ import annotations

from megacontext.core.config import Config
from megacontext.core.evaluation.sessions.history import History
from megacontext.core.evaluation.sessions.lazy_window import LazyKVWindow
from megacontext.core.model import BaseModel, KVWindow

__all__ = ["WindowPool"]


class WindowPool:
    """Two windows over one model: one that starts empty, one that is reused.

    A window of this pool voids the one of the same kind that was handed out before.
    """

    def __init__(self, base: BaseModel, config: Config) -> None:
        self._base = base
        self._config = config
        self._empty: LazyKVWindow | None = None
        self._reused: LazyKVWindow | None = None
        self._reused_for: tuple[str, int, History] | None = None

    def empty(self, w_max: int) -> LazyKVWindow:
        """An empty window of ``w_max`` entries in the configured mode."""
        if self._empty is None or self._empty.slots < w_max:
            self._empty = self._new_window(w_max, self._config.kv.mode)
        self._empty.start_over(w_max)
        self._empty.hide_gists = self._config.gist.kind == "none"
        return self._empty

    def reuse(self, owner: str, w_max: int, history: History) -> LazyKVWindow:
        """The exact-mode window, with its rows if the last call had the same arguments.

        So raw blocks that stay the same from question to question are computed once.

        Args:
            owner: name of the contender.
        """
        if self._reused is None or self._reused.slots < w_max:
            self._reused = self._new_window(w_max, "exact")
            self._reused_for = None

        last = self._reused_for
        if last is None or last[:2] != (owner, w_max) or last[2] is not history:
            self._reused.start_over(w_max)
        self._reused_for = owner, w_max, history
        return self._reused

    def _new_window(self, w_max: int, mode: str) -> LazyKVWindow:
        kv = self._config.kv
        window = KVWindow(
            self._base,
            w_max,
            mode,
            kv.positions,
            refresh_every=kv.refresh_every,
            refresh_chunk=kv.refresh_chunk,
            hide_gists=self._config.gist.kind == "none",
        )
        return LazyKVWindow(window)
