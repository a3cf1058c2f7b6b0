"""One level of gists with its index keys, and the work of bringing levels up to date."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from megacontext.core.geometry import node_count, span
from megacontext.core.tree.buffer import Mark, Rows
from megacontext.core.tree.codec import decode_vectors, encode_vectors
from megacontext.core.tree.spec import F32, NO_TOKEN, U32, Gister, Progress, TreeSpec
from megacontext.traces.errors import ModelError

__all__ = [
    "GIST_BATCH",
    "KEY_DTYPE",
    "Level",
    "bring_up_to_date",
    "closed_block",
    "missing_nodes",
    "whole_tokens",
]

GIST_BATCH = 256
"""Nodes per call of a gister: bounds its memory when a long history arrives at once."""

KEY_DTYPE = "fp16"
_SAFE_SQUARES = {"fp16": 6e4**2, "bf16": 1e30, "fp32": 1e30}


class Level:
    """Gist vectors and index keys of one level (>= 1), row by row the same nodes."""

    def __init__(self, number: int, spec: TreeSpec, gists: Rows, keys: Rows) -> None:
        self.number = number
        self.gists = gists
        self.keys = keys
        self._spec = spec

    @property
    def count(self) -> int:
        """Nodes that have both a vector and a key."""
        return min(self.gists.count, self.keys.count)

    def vectors(self, start: int, stop: int) -> F32:
        return decode_vectors(self.gists.view(start, stop), self._spec.dtype)

    def index_keys(self, start: int, stop: int) -> F32:
        return decode_vectors(self.keys.view(start, stop), KEY_DTYPE)

    def put(self, first: int, vectors: F32, keys: F32, gister: Gister) -> None:
        """Append nodes from ``first`` on; rows that a half-done commit already holds are kept."""
        n = len(vectors)
        spec = self._spec
        for what, rows, values, width, dtype in (
            ("gist", self.gists, vectors, spec.dim, spec.dtype),
            ("key", self.keys, keys, spec.key_dim, KEY_DTYPE),
        ):
            if values.shape != (n, width):
                raise ModelError(
                    f"gister {gister.checkpoint_id!r} returned shape {values.shape} for {what}s of "
                    f"level {self.number}; it must return ({n}, {width})."
                )
            stored = encode_vectors(values, dtype)
            # A small sum of squares proves that every value is small, at the cost of one dot
            # product; NaN and infinity fail the comparison.
            if not np.vdot(values, values) <= _SAFE_SQUARES[dtype]:
                finite = np.isfinite(decode_vectors(stored, dtype)).all(axis=1)
                if not finite.all():
                    raise ModelError(
                        f"gister {gister.checkpoint_id!r} made the {what} of node "
                        f"{first + int(np.argmin(finite))} of level {self.number} with a value "
                        f"that {dtype} cannot hold; load a gister with smaller, finite outputs."
                    )
            rows.append(stored[rows.count - first :])

    @property
    def committed(self) -> int:
        """Nodes whose vector and key survive a crash."""
        return min(self.gists.committed, self.keys.committed)

    def commit(self) -> None:
        self.gists.commit()
        self.keys.commit()

    def close(self) -> None:
        self.gists.close()
        self.keys.close()

    def mark(self) -> tuple[Mark, Mark]:
        return self.gists.mark(), self.keys.mark()

    def rollback(self, mark: tuple[Mark, Mark]) -> None:
        self.gists.rollback(mark[0])
        self.keys.rollback(mark[1])


def missing_nodes(levels: Sequence[Level], n_tokens: int, block_size: int) -> int:
    """Nodes that are complete over ``n_tokens`` tokens and not in ``levels``."""
    complete = [node_count(level.number, n_tokens, block_size) for level in levels]
    return sum(max(n - level.count, 0) for n, level in zip(complete, levels, strict=True))


def whole_tokens(levels: Sequence[Level], n_tokens: int, block_size: int) -> int:
    """The longest history of which every complete node is in ``levels``."""
    ends = [span(level.number, level.count, block_size)[1] - 1 for level in levels]
    return min([n_tokens, *ends])


def bring_up_to_date(
    tokens: Rows,
    levels: Sequence[Level],
    spec: TreeSpec,
    gister: Gister,
    progress: Progress | None = None,
    after_batch: Callable[[Level], None] | None = None,
    encoded: tuple[F32, F32] | None = None,
) -> None:
    """Make the gists and keys that are missing, level by level, in batches of GIST_BATCH nodes.

    ``encoded``: gist [1, dim] and key [1, key_dim] of the one block that is missing, if known.

    Raises:
        ModelError: the gister returned a wrong shape or values that cannot be stored.
    """
    size = spec.block_size
    total = missing_nodes(levels, tokens.count, size) if progress else 0
    done = 0
    below = tokens.count

    # Level by level: the gists of one are the children of the next.
    for level in levels:
        have, complete = level.count, below // size
        for first in range(have, complete, GIST_BATCH):
            last = min(first + GIST_BATCH, complete)
            if level.number == 1 and encoded is not None:
                vectors, keys = encoded
                if len(vectors) != last - first:
                    raise ValueError(f"{len(vectors)} gists made, {last - first} blocks closed")
            elif level.number == 1:
                blocks = tokens.view(first * size, last * size).reshape(-1, size)
                left = _left_contexts(tokens, first, last, size, gister.left_context)
                vectors, keys = gister.encode_blocks(blocks, left)
            else:
                children = levels[level.number - 2].vectors(first * size, last * size)
                children = children.reshape(-1, size, spec.dim)
                vectors, keys = gister.encode_gists(level.number, children)

            level.put(first, vectors, keys, gister)
            if after_batch:
                after_batch(level)
            if progress:
                done += last - first
                progress(done, total)
        below = level.count


def closed_block(tokens: Rows, fresh: U32, size: int, context: int) -> tuple[U32, U32] | None:
    """The block [1, size] that ``fresh`` tokens would just close, and what lies before it
    [1, context]; None if they do not fill a block to its end."""
    start = tokens.count // size * size
    if tokens.count - start + len(fresh) != size:
        return None
    padding = np.full(max(context - start, 0), NO_TOKEN, np.uint32)
    known = tokens.view(max(start - context, 0), tokens.count)
    read = np.concatenate([padding, known, fresh], dtype=np.uint32)[None]
    return read[:, context:], read[:, :context]


def _left_contexts(tokens: Rows, first: int, last: int, size: int, context: int) -> U32:
    """For each block in [first, last) the ``context`` tokens before it: [n, context]."""
    if context == 0:
        return np.empty((last - first, 0), np.uint32)
    start = first * size - context
    known: U32 = tokens.view(max(start, 0), (last - 1) * size)
    if start < 0:
        known = np.concatenate([np.full(-start, NO_TOKEN, np.uint32), known])
    windows = np.lib.stride_tricks.sliding_window_view(known, context)
    return np.ascontiguousarray(windows[::size])
