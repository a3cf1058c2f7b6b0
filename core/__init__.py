"""The engine: a frozen language model over a history that its window cannot hold.

:class:`Engine` is the public API; docs/api.md describes it. Imports nothing until it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megacontext.core.config import Config, load_config
    from megacontext.core.engine import Answer, Engine, FocusAction, Refocus

__all__ = ["Answer", "Config", "Engine", "FocusAction", "Refocus", "load_config"]

_HOMES = {
    "Answer": "engine",
    "Config": "config",
    "Engine": "engine",
    "FocusAction": "engine",
    "Refocus": "engine",
    "load_config": "config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
