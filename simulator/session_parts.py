"""What stands in for model and person in a simulated session: a hash, and drawn commands."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch

from megacontext.core.model.base import Forward
from megacontext.core.model.window import SyncStats
from megacontext.core.rng import generator
from megacontext.core.runtime.asking import answer_turn, inject
from megacontext.core.runtime.controller import NullController, Stop
from megacontext.core.runtime.session import Session
from megacontext.core.runtime.socket_controller import set_knob
from megacontext.traces.errors import ConfigError
from megacontext.traces.schema import KVMode

__all__ = ["LETTERS", "VOCAB", "DrawnCommands", "HashWindow", "LetterTokenizer"]

VOCAB = 24
"""So few that n-grams of two and three tokens come back all the time."""
LETTERS = "abcdefghijklmnopqrstuvw?"


class LetterTokenizer:
    """One letter a token; the last one ends a question."""

    chat = None
    start_ids: tuple[int, ...] = ()
    end_ids: frozenset[int] = frozenset()

    def encode(self, text: str) -> np.ndarray:
        """U32[t]; letters that the vocabulary lacks are left out."""
        return np.array([LETTERS.index(c) for c in text if c in LETTERS], np.uint32)

    def stream(self) -> LetterTokenizer:
        return self

    def push(self, tokens: Any) -> list[str]:
        """The text of each token."""
        return [LETTERS[int(token)] for token in tokens]


def _logits(token: int, position: int) -> torch.Tensor:
    """F32[V] after ``token`` at ``position``: a function of the two alone."""
    mixed = (token * 0x9E3779B1 + position * 0x85EBCA6B + 1) % (1 << 32)
    values = [(mixed * (i + 3) * 2654435761) % 1021 / 256 for i in range(VOCAB)]
    return torch.tensor(values, dtype=torch.float32)


class HashWindow:
    """A window whose model reads one token and its place, and that checks what it is told."""

    mode, max_rows, notes = KVMode.EXACT, 64, ()

    def __init__(self, w_max: int) -> None:
        self.w_max = w_max
        self.n_tokens = self._rows = 0
        self.last: Forward | None = None

    def __len__(self) -> int:
        """Rows in use."""
        return self._rows

    def append(self, tokens: Any) -> Forward:
        """See :class:`~megacontext.core.model.token_window.TokenWindow`."""
        ids = np.asarray(tokens).tolist()
        rows = [_logits(token, self.n_tokens + at) for at, token in enumerate(ids)]
        self.n_tokens += len(ids)
        self._rows += len(ids)
        forward = Forward(torch.stack(rows), torch.zeros(len(ids), 1))
        self.last = Forward(forward.logits[-1:], forward.hidden[-1:])
        return forward

    def run_ahead(self, count: int) -> None:
        """Nothing: the host chooses every token."""

    def sync(
        self, layout: Any, vectors: Any, tokens: Any, reread: int = 0, fuse: bool = False
    ) -> SyncStats:
        """Reads every row of the layout, so that one which is not there fails."""
        for level in set(layout.levels.tolist()):
            if level:
                vectors(level, layout.index[layout.levels == level])
        self.n_tokens = layout.n_tokens
        raw = int(np.count_nonzero(layout.levels == 0))
        self._rows = layout.n_tokens - layout.tail_start + raw * layout.block_size
        self._rows += len(layout.levels) - raw
        if not self.n_tokens:
            return SyncStats(0, self.mode, None)
        newest = int(tokens(layout.n_tokens - 1, layout.n_tokens)[0])
        logits = _logits(newest, layout.n_tokens - 1)[None]
        self.last = Forward(logits, torch.zeros(1, 1))
        return SyncStats(0, self.mode, None)

    def attention_mass(self, layout: Any, queries: int) -> np.ndarray:
        """Even over the entries."""
        n = len(layout.levels) + 1
        return np.full((1, n), 1 / n, np.float32)


class DrawnCommands(NullController):
    """Somebody at the controls: at drawn moments one command, of every kind."""

    def __init__(self, seed: int, prob: float) -> None:
        self._rng, self._prob = generator(seed, "session.hand"), prob
        self.done: Counter[str] = Counter()

    def serve(self, session: Session) -> None:
        """See :class:`~megacontext.core.runtime.controller.Controller`."""
        if session.answering or self._rng.random() >= self._prob:
            return
        if session.parts.tree.n_tokens > session.context.n_tokens:
            return  # what is typed now could not be what the tree holds there already
        kind = ("n_diff", "tau", "w_max", "text", "ask", "marker", "stop")[self._rng.integers(7)]
        number = int(self._rng.integers(1, 8))
        self.done[kind] += 1
        try:
            self._carry_out(kind, number, session)
        except ConfigError:
            self.done["refused"] += 1

    def _carry_out(self, kind: str, number: int, session: Session) -> None:
        match kind:
            case "n_diff":
                set_knob(session, "focus.n_diff", number)
            case "tau":
                set_knob(session, "focus.tau_expand", number / 16)
            case "w_max":
                set_knob(session, "w_max", session.parts.config.w_max - number)
            case "text":
                inject(session, LETTERS[: 2 * number])
            case "ask":
                answer_turn(session, LETTERS[number : 2 * number] + "?", 5, "")
            case "marker":
                session.sink.marker(f"mark {number}")
            case "stop" if number == 1:
                raise Stop
