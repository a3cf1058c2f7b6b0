"""How a bug is planted: by replacing a method for as long as a patch lasts."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

Patch = pytest.MonkeyPatch


class Proxy:
    """Everything as in ``inner``, but for the methods given."""

    def __init__(self, inner: Any, **methods: Any) -> None:
        self.__dict__.update(methods, inner=inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def no(*_: Any, **__: Any) -> None:
    """Does nothing."""


def wrap(m: Patch, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace ``owner.name`` by ``make(original)``."""
    m.setattr(owner, name, make(getattr(owner, name)))


def edit(*owners: Any, name: str, old: str, new: str) -> Callable[[Patch], None]:
    """The function ``name`` with ``old`` in its text replaced by ``new``.

    Args:
        owners: the class or module that defines it, then others that imported it.
        old: has to stand in the text exactly once.
    """

    def plant(m: Patch) -> None:
        found = inspect.getattr_static(owners[0], name)
        function = getattr(found, "__func__", found)
        text = textwrap.dedent(inspect.getsource(function))
        assert text.count(old) == 1, f"{name} holds {old!r} {text.count(old)} times"
        made: dict[str, Any] = {}
        exec(text.replace(old, new), function.__globals__, made)  # noqa: S102
        for owner in owners:
            m.setattr(owner, name, made[name])

    return plant
