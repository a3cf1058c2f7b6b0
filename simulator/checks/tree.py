"""What a tree must hold: the stream's tokens, and for each complete node the gist of its children.

Gists are made anew level by level from the stored tokens by an independent caller of the gister.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from megacontext.core.tree import NO_TOKEN, Gister, Tree
from megacontext.simulator.checks.invariant import InvariantError

__all__ = ["check_gists", "check_tokens"]


class _Tokens(Protocol):
    def tokens(self, start: int, stop: int) -> np.ndarray: ...


def check_tokens(tree: Tree, stream: _Tokens, what: str) -> None:
    """The tree's tokens are the stream's, bit by bit."""
    have, expected = tree.tokens(0, tree.n_tokens), stream.tokens(0, tree.n_tokens)
    if not np.array_equal(have, expected):
        at = int(np.argmax(have != expected))
        raise InvariantError("bytes", f"token {at} of {what} is {have[at]}, not {expected[at]}")


def check_gists(tree: Tree, gister: Gister) -> None:
    """Every complete node exists and stands for exactly its children."""
    size, n_tokens = tree.spec.block_size, tree.n_tokens
    below: np.ndarray = np.array(tree.tokens(0, n_tokens))

    # A level has one node for every full span of tokens.
    for level in range(1, tree.spec.max_levels + 1):
        nodes = n_tokens // size**level
        if tree.n_nodes(level) != nodes:
            raise InvariantError("tree", f"{tree.n_nodes(level)} level-{level} nodes, not {nodes}")
        if nodes == 0:
            return

        # Encode the children again; the stored vectors must be the same bit for bit.
        children = below[: nodes * size].reshape(nodes, size, *below.shape[1:])
        if level == 1:
            left = _left(below, nodes, size, gister.left_context)
            vectors, keys = gister.encode_blocks(children, left)
        else:
            vectors, keys = gister.encode_gists(level, children)
        for what, have, expected in (
            ("gist", tree.gists(level, 0, nodes), vectors),
            ("key", tree.keys(level, 0, nodes), keys),
        ):
            if not np.array_equal(have, expected):
                bad = int(np.argmax((have != expected).any(axis=1)))
                raise InvariantError(
                    "gists", f"the {what} of node ({level}, {bad}) is not that of its children"
                )

        below = vectors


def _left(tokens: np.ndarray, nodes: int, size: int, context: int) -> np.ndarray:
    padded = np.concatenate([np.full(context, NO_TOKEN, np.uint32), tokens])
    rows = [padded[block * size : block * size + context] for block in range(nodes)]
    return np.array(rows, np.uint32).reshape(nodes, context)
