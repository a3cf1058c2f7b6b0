"""The id and the birthday of a tree."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

from megacontext.core.tree.spec import TreeSpec
from megacontext.traces.errors import ConfigError

__all__ = ["TREE_ID_BYTES", "make_tree_id", "utc"]

TREE_ID_BYTES = 16


def make_tree_id(tree_id: str | None, seed: int, now_ns: int, spec: TreeSpec) -> str:
    """``tree_id`` after a check, or an id that is a function of seed, time and spec.

    Raises:
        ConfigError: ``tree_id`` is not 32 hex digits.
    """
    if tree_id is None:
        facts = json.dumps([seed, now_ns, spec.as_dict()], sort_keys=True)
        return hashlib.blake2b(facts.encode(), digest_size=TREE_ID_BYTES).hexdigest()
    digits = 2 * TREE_ID_BYTES
    if len(tree_id) != digits or set(tree_id) - set("0123456789abcdef"):
        raise ConfigError(f"tree_id is {tree_id!r}; use {digits} lower-case hex digits.")
    return tree_id


def utc(now_ns: int) -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(now_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
