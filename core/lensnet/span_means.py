"""Means of a value per token over spans of a history that grows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RunningMeans"]


class RunningMeans:
    """Prefix sums that are extended from call to call: O(new tokens + spans).

    Tokens without a value (NaN) are left out. The sums start again for another history, for one
    that got shorter, and for one whose last known value changed.
    """

    def __init__(self) -> None:
        self._owner: Any = None
        self._known = 0
        self._last = np.float32(np.nan)
        self._sums = np.zeros((2, 1024))  # of values and of their number, before each token

    def means(
        self,
        owner: object,
        values: npt.NDArray[np.float32],
        starts: npt.NDArray[np.int64],
        widths: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.float32]:
        """F32[n]: the mean over each span [start, start + width); 0 if no value in it is known.

        Args:
            owner: the history of the values; compared by identity.
            values: F32[t]; values of earlier calls are not read again.
        """
        known = self._known
        if owner is not self._owner or known > len(values) or not self._continues(values, known):
            self._owner, known = owner, 0
        if len(values) > known:
            self._extend(np.asarray(values[known:], np.float32), known)
        first, last = (np.minimum(at, len(values)) for at in (starts, starts + widths))
        total, count = self._sums[:, last] - self._sums[:, first]
        means: npt.NDArray[np.float32] = (total / np.maximum(count, 1)).astype(np.float32)
        return means

    def _extend(self, fresh: npt.NDArray[np.float32], known: int) -> None:
        stop = known + len(fresh)
        if stop >= self._sums.shape[1]:
            extended = np.zeros((2, 1 << stop.bit_length()))
            extended[:, : known + 1] = self._sums[:, : known + 1]
            self._sums = extended
        real = np.isfinite(fresh)
        both = np.stack([np.where(real, fresh, 0), real])
        before = self._sums[:, known, None]
        self._sums[:, known + 1 : stop + 1] = before + np.cumsum(both, axis=1, dtype=np.float64)
        self._known, self._last = stop, fresh[-1]

    def _continues(self, values: npt.NDArray[np.float32], known: int) -> bool:
        return known == 0 or np.array_equal(values[known - 1], self._last, equal_nan=True)
