"""Where the newest tokens stood before: an index of n-grams that grows with the history."""

from __future__ import annotations

from array import array

import numpy as np

from megacontext.core.focus.actions import I64
from megacontext.core.lenses.base import U32

__all__ = ["LONGEST", "Suffixes"]

LONGEST = 32
"""A match is not followed further back."""
_TRIED = 32
"""Earlier places looked at, the newest first: common n-grams have thousands."""
_BITS = 18
_WORD = 0xFFFFFFFFFFFFFFFF
_STEP, _SPREAD = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd, bits well mixed
_BULK = 256


class Suffixes:
    """Chains of places whose last n tokens hash alike, as LZ77 compressors keep them (RFC 1951).

    A *place* is a position in the history with the n tokens before it. 8 bytes a token; a token
    costs the same however long the history is.

    Args:
        n: tokens that have to agree for a match, at least 1.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._tokens = array("I")
        self._before = array("i", [0])  # by place: the newest earlier one of its chain, 0: none
        self._heads = array("i", bytes(4 << _BITS))

    def __len__(self) -> int:
        """Tokens so far."""
        return len(self._tokens)

    def extend(self, tokens: U32) -> None:
        """Take in the next tokens; what they match is not asked."""
        if len(tokens) < _BULK:
            for token in tokens.tolist():
                self.push(token, ask=False)
            return
        known = len(self)
        self._tokens.frombytes(np.ascontiguousarray(tokens, np.uint32).tobytes())
        first = max(self.n, known + 1)  # the first new place with n tokens before it
        self._before.extend([0] * (min(first, len(self) + 1) - known - 1))
        if first > len(self):
            return
        text = np.frombuffer(self._tokens, np.uint32)[first - self.n :].astype(np.uint64)
        positions = len(self) - first + 1
        words = np.zeros(positions, np.uint64)
        for offset in range(self.n):
            words = words * np.uint64(_STEP) + text[offset : offset + positions] + np.uint64(1)
        slots = (words * np.uint64(_SPREAD)) >> np.uint64(64 - _BITS)
        self._before.frombytes(self._chained(slots.astype(np.int64), first).tobytes())

    def _chained(self, slots: I64, first: int) -> np.ndarray:
        """int32 predecessors of the places from ``first`` on, by their slots; heads follow."""
        order = np.argsort(slots, kind="stable")
        slot, position = slots[order], (first + order).astype(np.int32)
        starts = np.flatnonzero(np.diff(slot, prepend=-1))
        heads = np.frombuffer(self._heads, np.int32)
        earlier = np.roll(position, 1)
        earlier[starts] = heads[slot[starts]]
        heads[slot[starts]] = position[np.append(starts[1:], len(position)) - 1]
        before = np.empty(len(slots), np.int32)
        before[order] = earlier
        return before

    def push(self, token: int, ask: bool = True) -> tuple[int, int]:
        """Take in one token.

        Returns:
            (place, length): where the text so far stood before, and how many of its last tokens
            did; the longest match of the newest places, of equal ones the newest. (0, 0): none.
        """
        tokens, n = self._tokens, self.n
        tokens.append(token)
        here = len(tokens)
        if here < n:
            self._before.append(0)
            return 0, 0
        word = 0
        for part in tokens[here - n :]:
            word = (word * _STEP + part + 1) & _WORD
        slot = (word * _SPREAD & _WORD) >> (64 - _BITS)
        latest = self._heads[slot]
        found = self._max_length(latest, here) if ask else (0, 0)
        self._before.append(latest)
        self._heads[slot] = here
        return found

    def _max_length(self, position: int, here: int) -> tuple[int, int]:
        tokens, before = self._tokens, self._before
        found, max_length = 0, self.n - 1
        for _ in range(_TRIED):
            if not position:
                break
            most, length = min(LONGEST, position), 0
            while length < most and tokens[position - 1 - length] == tokens[here - 1 - length]:
                length += 1
            if length > max_length:
                found, max_length = position, length
                if length == LONGEST:
                    break
            position = before[position]
        return (found, max_length) if found else (0, 0)
