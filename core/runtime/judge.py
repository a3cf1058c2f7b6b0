"""Whether an answer is right: one judge for ``run`` and ``eval recall``."""

from __future__ import annotations

import re

__all__ = ["is_right"]

_SPACE = re.compile(r"\s+")
_QUOTES = "\"'`“”‘’"


def _normalized(text: str) -> str:
    return _SPACE.sub(" ", text).strip().lstrip(_QUOTES).casefold()


def is_right(text: str, answer: str, kind: str = "") -> bool:
    """Whether ``text`` starts with ``answer``; case, white space and opening quotes aside.

    A longer word or number that merely starts with the answer is wrong. Of kind ``multi_value``
    the answer is a list joined by commas: its n values may come in any order, but the first n
    different values of the text must be these (what a decoder repeats behind them is not judged).
    """
    said, target = _normalized(text), _normalized(answer)
    target = target.rstrip(_QUOTES + ".") or target
    if kind == "multi_value":
        values = set(_items(target))
        return set(_items(said)[: len(values)]) == values
    if not said.startswith(target):
        return False
    rest = said[len(target) :]
    return not (target[-1:].isalnum() and rest[:1].isalnum())


def _items(text: str) -> list[str]:
    """The different values of a list, in order."""
    found = (item.strip(_QUOTES + ". ") for item in text.replace(" and ", ",").split(","))
    return list(dict.fromkeys(item for item in found if item))
