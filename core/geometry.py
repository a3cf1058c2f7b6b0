"""Arithmetic of the K-ary tree over the history; no state, no objects per node.

A node ``(level, index)`` covers tokens ``[index * K**level, (index + 1) * K**level)``. Level 1
covers one block of K tokens, level 2 covers K blocks, and so on. In a *frontier*, level 0 stands
for a whole raw block: ``(0, i)`` and ``(1, i)`` cover the same K tokens, the first as K raw
entries, the second as one gist. ``span_level`` hides that special case.
"""

from __future__ import annotations

__all__ = ["cost", "node_count", "span", "span_level"]


def span_level(level: int) -> int:
    """The level whose nodes cover what a frontier entry of ``level`` covers (raw block: 1)."""
    return max(level, 1)


def span(level: int, index: int, block_size: int) -> tuple[int, int]:
    """Token span [start, stop) of frontier entry ``(level, index)``."""
    width = block_size ** span_level(level)
    return index * width, (index + 1) * width


def cost(level: int, block_size: int) -> int:
    """Entries that a frontier entry of ``level`` takes in the working context."""
    return block_size if level == 0 else 1


def node_count(level: int, tokens: int, block_size: int) -> int:
    """Complete nodes of ``level`` (>= 1) over a history of ``tokens`` tokens."""
    return tokens // int(block_size**level)
