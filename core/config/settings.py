"""Settings of trainers and data sets: checks that several of them share, and how they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from megacontext.core.config.parser import Count, apply_overrides, build, read_mapping
from megacontext.traces.errors import ConfigError

__all__ = ["Count", "check_fraction_sum", "check_fractions", "load"]

T = TypeVar("T")


def check_fraction_sum(shares: Iterable[float]) -> None:
    """Refuse phases whose shares of the budget do not add up to 1."""
    total = sum(shares)
    if abs(total - 1) > 1e-6:
        raise ConfigError(f"phases.share: the shares add up to {total:g}; they must add to 1.")


def check_fractions(section: str, settings: Any) -> None:
    """Refuse a section whose fractions, chances and shares all, are not within 0 to 1."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, float) and not 0 <= value <= 1:
            raise ConfigError(f"{section}.{field.name}: {value} is outside 0 to 1.")


def load(kind: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """Read ``path`` into ``kind``; each override is ``key.path=value`` (a YAML value).

    Raises:
        ConfigError: unreadable file, unknown key, wrong type or impossible value.
    """
    raw = apply_overrides(read_mapping(path), overrides)
    return build(kind, _with_bundle(raw))


def _with_bundle(raw: dict[str, Any]) -> dict[str, Any]:
    """``demo`` as the bundled tokenizer, base model, GistNet or LensNet, wherever it lies."""
    from megacontext.core.runtime.pretrained import DEMO, bundle_folder

    parts = {"tokenizer": "base", "base": "base", "gistnet": "gistnet", "lensnet": "lensnet"}
    bundled = {key: str(bundle_folder() / part) for key, part in parts.items()}
    return {k: bundled[k] if k in bundled and v == DEMO else v for k, v in raw.items()}
