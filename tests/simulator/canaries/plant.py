"""How a bug is planted: by replacing a method for as long as a patch lasts."""

from __future__ import annotations

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
