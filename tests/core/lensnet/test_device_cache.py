"""What the lens keeps of a tree: the same bits however the tree grew, read once a node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from megacontext.core.lensnet.device_cache import DeviceCache
from megacontext.core.lensnet.module import LensNet, LensNetConfig

DIM, NODES = 48, 200
ALL = np.random.default_rng(0).standard_normal((NODES, DIM)).astype(np.float32)


class Grove:
    """A tree of one level that has ``count`` nodes, and counts the rows it was asked for."""

    def __init__(self, count: int) -> None:
        self.count, self.given = count, 0

    def n_nodes(self, level: int) -> int:
        return self.count

    def gists(self, level: int, start: int, stop: int) -> np.ndarray:
        assert stop <= self.count
        self.given += stop - start
        return ALL[start:stop]

    def keys(self, level: int, start: int, stop: int) -> np.ndarray:
        return self.gists(level, start, stop)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return np.zeros(stop - start, np.uint32)


@pytest.fixture(scope="module")
def net() -> LensNet:
    net = LensNet(LensNetConfig(DIM, 8, width=16, heads=2)).eval().requires_grad_(False)
    net.init_weights(0)
    return net


def cache(net: LensNet) -> DeviceCache:
    return DeviceCache(torch.device("cpu"), net.read_gists)


@pytest.mark.parametrize("step", [1, 7, 64, 100])
def test_a_node_is_read_alike_however_the_tree_grew(net: LensNet, step: int) -> None:
    at_once = cache(net).gists(Grove(NODES), 1)[:NODES]
    tree, grown = Grove(0), cache(net)
    while tree.count < NODES:
        tree.count = min(NODES, tree.count + step)
        rows = grown.gists(tree, 1)
    assert torch.equal(rows[:NODES], at_once)
    assert torch.allclose(at_once, net.read_gists(torch.from_numpy(ALL)), atol=1e-5)


def test_keys_are_copied_once_and_a_shorter_or_other_tree_is_read_anew(net: LensNet) -> None:
    tree, kept = Grove(NODES), cache(net)
    assert np.array_equal(kept.keys(tree)[:NODES].numpy(), ALL)
    kept.keys(tree)
    assert tree.given == NODES
    tree.count = 10
    kept.keys(tree)
    assert tree.given == NODES + 10
    other = Grove(20)
    kept.keys(other)
    assert other.given == 20


def test_a_growing_tree_gives_each_gist_once(net: LensNet) -> None:
    tree, kept = Grove(100), cache(net)
    kept.gists(tree, 1)
    tree.given, tree.count = 0, 102
    kept.gists(tree, 1)
    kept.gists(tree, 1)
    assert tree.given == 2


def test_what_is_kept_has_the_width_of_the_lens(net: LensNet) -> None:
    rows: Any = cache(net).gists(Grove(3), 1)
    assert rows.shape == (1024, net.config.width)
