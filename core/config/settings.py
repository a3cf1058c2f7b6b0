"""Settings of trainers and datasets: YAML into frozen dataclasses, with errors that name the key.

``parse`` is generic: a trainer of another network declares its own dataclasses and reuses it.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml

from megacontext.core.config.yamls import parse_mapping
from megacontext.traces.errors import ConfigError
from megacontext.traces.packaged import config_hint, find_config

__all__ = [
    "Count",
    "apply_overrides",
    "check_fraction_sum",
    "check_fractions",
    "load",
    "parse",
]

T = TypeVar("T")
Count = Annotated[int, "from 1"]
"""A whole number of which there must be one; ``parse`` refuses less."""


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
    path = find_config(path)
    try:
        text = path.read_text(encoding="utf8")
    except OSError as error:
        raise ConfigError(
            f"--config: {path} cannot be read ({error.strerror}); {config_hint(path)}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config: {path} is not UTF-8 text; name a YAML file.") from error
    raw = apply_overrides(parse_mapping(text, f"--config: {path}"), overrides)
    return parse(kind, _with_bundle(raw))


def _with_bundle(raw: dict[str, Any]) -> dict[str, Any]:
    """``demo`` as the bundled tokenizer, base model, GistNet or LensNet, wherever it lies."""
    from megacontext.core.runtime.pretrained import DEMO, bundle_folder

    parts = {"tokenizer": "base", "base": "base", "gistnet": "gistnet", "lensnet": "lensnet"}
    bundled = {key: str(bundle_folder() / part) for key, part in parts.items()}
    return {k: bundled[k] if k in bundled and v == DEMO else v for k, v in raw.items()}


def apply_overrides(raw: Any, overrides: Sequence[str]) -> Any:
    """``raw`` with each ``a.b.0=value`` set; list positions are numbers."""
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set: {override!r} has no '='; write key.path=value.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set: {override!r} has no YAML value; quote it.") from error

        # Descend to the section, and set its key.
        *parents, last = key.split(".")
        node = raw
        try:
            for name in parents:
                node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
            node[int(last) if isinstance(node, list) else last] = value
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise ConfigError(
                f"--set: {key!r} is no place in this config; check the names, and the numbers of "
                "list items (from 0)."
            ) from error
    return raw


def parse(kind: type[T], raw: Any, where: str = "") -> T:
    """Build the dataclass ``kind`` from plain data, checking keys and types all the way down."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where or 'config'}: {raw!r} should be a mapping of keys to values.")
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for key in raw:
        if key not in fields:
            known = ", ".join(sorted(fields))
            raise ConfigError(f"{prefix}{key}: unknown key; known keys are {known}.")

    values = {key: _value(hints[key], value, prefix + key) for key, value in raw.items()}
    try:
        return kind(**values)
    except TypeError as error:
        missing = [
            f.name
            for f in dataclasses.fields(kind)  # type: ignore[arg-type]
            if f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
            and f.name not in values
        ]
        if not missing:
            raise
        raise ConfigError(f"{prefix}{missing[0]}: the key is missing; set it.") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        number = _value(int, value, where)
        if number < 1:
            raise ConfigError(f"{where}: {number} is below 1; use a positive number.")
        return number

    # Sections and choices.
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, where)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in arguments:
            options = ", ".join(map(str, arguments))
            raise ConfigError(f"{where}: {value!r} is unknown; choose one of {options}.")
        return value

    # Lists and mappings.
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: {value!r} should be a list.")
        if not value and arguments[0] is Count:
            raise ConfigError(f"{where}: the list is empty; give at least one number.")
        return tuple(_value(arguments[0], v, f"{where}.{i}") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {value!r} should be a mapping of keys to values.")
        return {str(k): _value(arguments[1], v, f"{where}.{k}") for k, v in value.items()}

    # Plain values.
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        name = getattr(hint, "__name__", str(hint))
        raise ConfigError(f"{where}: {value!r} should be of type {name}.")
    if hint in (int, float) and value < 0:
        raise ConfigError(f"{where}: {value!r} is negative; use 0 or more.")
    return value
