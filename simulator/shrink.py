"""Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input",
IEEE TSE 2002): the shortest operation list that still fails, by removing ever smaller chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

__all__ = ["ddmin", "shrink"]

T = TypeVar("T")


def ddmin(items: Sequence[T], fails: Callable[[list[T]], bool], max_tries: int = 2000) -> list[T]:
    """A 1-minimal sublist of ``items`` for which ``fails`` still holds.

    Args:
        items: a failing list; ``fails(list(items))`` must hold.
        fails: deterministic.
        max_tries: upper bound on calls of ``fails``.
    """
    current, parts, tries = list(items), 2, 0
    while len(current) >= 2 and tries < max_tries:
        size = -(-len(current) // parts)
        for start in range(0, len(current), size):
            candidate = current[:start] + current[start + size :]
            tries += 1
            if candidate and fails(candidate):
                current, parts = candidate, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(len(current), parts * 2)
    return current


def shrink(
    items: Sequence[T],
    fails: Callable[[list[T]], bool],
    simpler: Callable[[T], Iterator[T]],
    max_tries: int = 4000,
) -> list[T]:
    """:func:`ddmin`, then simpler operations one by one, until neither helps.

    Args:
        simpler: simpler forms of one operation, the simplest first.
    """
    current = ddmin(items, fails, max_tries)
    tries, changed = 0, True
    while changed and tries < max_tries:
        changed = False
        for at in range(len(current)):
            for form in simpler(current[at]):
                candidate = [*current[:at], form, *current[at + 1 :]]
                tries += 1
                if fails(candidate):
                    current, changed = candidate, True
                    break
        shorter = ddmin(current, fails, max_tries)
        changed |= len(shorter) < len(current)
        current = shorter
    return current
