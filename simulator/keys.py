"""The heads' key store beside a simulated tree, with keys that no model has to make.

A key says which token it is of and which two stood before it, so a key of another history, or one
that was encoded without its context, is never right by luck.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from megacontext.core.heads.calibration import HeadsCalibration
from megacontext.core.heads.store import HEADS_FILE, KeyStore
from megacontext.core.tree import Tree
from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.faults import SimDisk

__all__ = ["HEADS_FILE", "HashEncoder", "KeySide"]

_CONTEXT = 2
"""Tokens before a token that its key depends on; no more than the calibration's ``left``."""


class HashEncoder:
    """Keys of 4 bytes from the tokens alone."""

    calibration = HeadsCalibration(
        model="simulator",
        heads=((0, 0),),
        key_heads=((0, 0),),
        offset=np.zeros((1, 4), np.float32),
        scale=np.ones((1, 4), np.float32),
        chunk=8,
        left=4,
    )

    def encode(self, tokens: np.ndarray, start: int) -> np.ndarray:
        """I8[t - start, 4]; see :class:`~megacontext.core.heads.store.KeyEncoder`."""
        padded = np.concatenate([np.zeros(_CONTEXT, np.int64), tokens.astype(np.int64) + 1])
        current, before, earlier = padded[2:], padded[1:-1], padded[:-2]
        keys = np.stack([current % 127, current // 127, before % 127, earlier % 127], axis=1)
        rows: np.ndarray = keys[start:].astype(np.int8)
        return rows

    def encode_chunks(self, tokens: np.ndarray, first: int) -> np.ndarray:
        """I8[t - context, 4]; see :class:`~megacontext.core.heads.store.KeyEncoder`."""
        return self.encode(tokens, min(self.calibration.left, first))


class KeySide:
    """Opens, grows and checks the keys of one tree."""

    def __init__(self, tree: Tree, disk: SimDisk, sometimes: Counter[str]) -> None:
        self.tree, self.sometimes = tree, sometimes
        self.encoder = HashEncoder()
        self.store = KeyStore.beside(self.encoder, tree, disk)
        if self.store.count:
            sometimes["keys_reopened"] += 1

    def follow(self) -> None:
        """As a lens does it at a refocus."""
        tree = self.tree
        self.store.follow(tree.tokens, tree.n_tokens, tree.committed_tokens)
        self.sometimes["keys_followed"] += 1

    def check(self) -> None:
        """What the store serves are the keys of the tree's tokens."""
        tree, store = self.tree, self.store
        if store.count > tree.n_tokens:
            raise InvariantError("keys", f"keys of {store.count} of {tree.n_tokens} tokens")
        expected = self.encoder.encode(np.array(tree.tokens(0, tree.n_tokens)), 0)
        newest = store.newest(tree.tokens, tree.n_tokens)
        have = np.concatenate([store.view(0, store.count), newest])
        if not np.array_equal(have, expected):
            bad = int(np.argmax((have != expected).any(axis=1)))
            raise InvariantError("keys", f"the key of token {bad} of {tree.n_tokens} is another's")

    def check_committed(self, committed: int) -> None:
        """What a commit promised is there after any crash of an honest disk.

        Args:
            committed: keys whose commit returned.
        """
        if self.store.count < committed:
            raise InvariantError("keys", f"{self.store.count} of {committed} committed keys left")

    def close(self) -> None:
        """Let go of the file."""
        self.store.close()
