"""The tree: the whole history as tokens, gists and index keys, in memory or on disk."""

from megacontext.core.tree.gisters import HashGister, NullGister
from megacontext.core.tree.rebuild import regist
from megacontext.core.tree.recovery import Recovery
from megacontext.core.tree.spec import NO_TOKEN, Gister, Progress, TreeSpec
from megacontext.core.tree.tree import Tree

__all__ = [
    "NO_TOKEN",
    "Gister",
    "HashGister",
    "NullGister",
    "Progress",
    "Recovery",
    "Tree",
    "TreeSpec",
    "regist",
]
