"""The one parser of config files: plain data into dataclasses, refused by key path.

A run, a trainer, a data set, a batch, a table of ablations and a simulated world each declare
dataclasses; what a field may hold is its type and, beside it, an ``option`` (``fields.py``).
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from megacontext.core.config.fields import ValueSpec
from megacontext.core.config.yamls import parse_mapping
from megacontext.core.utf8 import check_utf8
from megacontext.traces.errors import ConfigError
from megacontext.traces.packaged import config_hint, find_config

__all__ = ["Count", "apply_overrides", "build", "read_mapping", "read_text"]

T = TypeVar("T")

Count = Annotated[int, ValueSpec(low=1)]
"""A whole number of which there must be one."""

_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_NUMBER = ValueSpec(low=0)
"""What a number may be whose field declares nothing."""

_BOOL_WORDS = {True: ("on", "yes", "true", "y"), False: ("off", "no", "false", "n")}
"""Choices that YAML reads as a yes/no value when they are written without quotes."""


def read_text(path: Path, label: str = "Config") -> str:
    """The text of a config file.

    Args:
        label: what an error calls the file.

    Raises:
        ConfigError: it is not there, no file, not UTF-8 or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{label} {path} does not exist; {config_hint(path)}") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{label} {path} is a folder; name a YAML file in it.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label} {path} is not UTF-8 text; save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{label} {path} cannot be read: {error.strerror}.") from error


def read_mapping(path: Path, label: str = "Config") -> dict[str, Any]:
    """The mapping in a YAML file; ``path`` may be the name of a packaged one.

    Raises:
        ConfigError: the file cannot be read, or holds no mapping.
    """
    path = find_config(path)
    return parse_mapping(read_text(path, label), f"{label} {path}")


def apply_overrides(raw: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """``raw`` with each ``key.path=value`` set in order; list items go by their number from 0.

    Raises:
        ConfigError: a setting without ``=``, a value that is not YAML, or no such place.
    """
    for setting in overrides:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {setting!r} has no '='; write --set key.path=value.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {key}: {text!r} is not a YAML value; quote it.") from error

        # Descend to the section or list, and set its key.
        *parents, last = key.split(".")
        node: Any = raw
        for name in parents:
            node = _child(node, name, key)
        _set(node, last, value, key)
    return raw


def _child(node: Any, name: str, key: str) -> Any:
    child: Any = None
    if isinstance(node, MutableMapping):
        child = node[name] = node[name] if node.get(name) is not None else {}
    elif isinstance(node, list) and _is_item(node, name):
        child = node[int(name)]
    if not isinstance(child, MutableMapping | list):
        raise ConfigError(f"--set {key}: {name} is not a section; see the keys of the config.")
    return child


def _set(node: Any, name: str, value: Any, key: str) -> None:
    if isinstance(node, list):
        if not _is_item(node, name):
            raise ConfigError(
                f"--set {key}: the list has no item {name}; use a number from 0 to {len(node) - 1}."
            )
        node[int(name)] = value
    else:
        node[name] = value


def _is_item(items: list[Any], name: str) -> bool:
    return name.isdecimal() and int(name) < len(items)


def build(kind: type[T], raw: object, path: str = "") -> T:
    """``raw`` (YAML or JSON) as an instance of the dataclass ``kind``, checked all the way down.

    A number whose field declares no range must not be negative.

    Args:
        path: the key path of ``raw``, which errors begin with.

    Raises:
        ConfigError: an unknown or missing key, a wrong type or an illegal value below ``path``.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path or 'config'} is {_kind(raw)}; it must be a section with keys.")
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]

    values: dict[str, Any] = {}
    for key, value in raw.items():
        name = f"{path}.{key}" if path else str(key)
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {close[0]}?" if close else "legal: " + ", ".join(fields) + "."
            raise ConfigError(f"Unknown key {name} (value {_short(value)}); {hint}")
        spec = fields[key].metadata.get("spec", _NUMBER)
        values[key] = _convert(hints[key], value, name, spec)

    for key, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and key not in values:
            raise ConfigError(f"{path + '.' if path else ''}{key} is missing; set it.")
    return kind(**values)


def _convert(hint: Any, value: Any, path: str, spec: ValueSpec) -> Any:
    """``value`` as what the type ``hint`` says."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        return _convert(arguments[0], value, path, arguments[1])

    # Sections, sections of several kinds, and values that may be missing.
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    if origin in (types.UnionType, typing.Union):
        if all(dataclasses.is_dataclass(member) for member in arguments):
            return _convert_kind(arguments, value, path)
        if value is None and type(None) in arguments:
            return None
        return _convert(next(m for m in arguments if m is not type(None)), value, path, spec)

    # Lists and mappings.
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path} is {_kind(value)}; it must be a list.")
        if not value and arguments[0] is Count:
            raise ConfigError(f"{path} is an empty list; give at least one number.")
        items = (_convert(arguments[0], v, f"{path}.{i}", spec) for i, v in enumerate(value))
        return origin(items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} is {_kind(value)}; it must be a mapping of names.")
        member = arguments[1]
        return {str(k): _convert(member, v, f"{path}.{k}", spec) for k, v in value.items()}

    # Choices and plain values.
    if origin is Literal:
        hint, spec = str, ValueSpec(choices=arguments)
    return _plain(hint, value, path, spec)


def _plain(kind: type, value: Any, path: str, spec: ValueSpec) -> Any:
    """A whole number will do for a number; a yes/no value only for a choice of that word."""
    original = value
    if isinstance(value, bool) and spec.choices is not None:
        value = next((w for w in _BOOL_WORDS[value] if w in spec.choices), value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)

    wrong_type = not isinstance(value, kind) or (kind is not bool and isinstance(value, bool))
    if wrong_type:
        raise ConfigError(
            f"{path} is {_short(original)} ({_kind(original)}); it must be {_TYPE_NAMES[kind]}."
        )
    if not spec.admits(value):
        raise ConfigError(f"{path} is {_short(original)}; it must be {spec.describe()}.")
    return check_utf8(value, path, ConfigError) if isinstance(value, str) else value


def _convert_kind(members: tuple[Any, ...], value: Any, path: str) -> Any:
    """A section whose ``kind`` key picks the dataclass."""
    kinds = {m.__dataclass_fields__["kind"].default: m for m in members}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path} is {_kind(value)}; it must be a section with a kind.")
    if "kind" not in value:
        raise ConfigError(f"{path}.kind is missing; it must be one of {', '.join(kinds)}.")
    name = value["kind"]
    if not isinstance(name, str) or name not in kinds:
        raise ConfigError(f"{path}.kind is {_short(name)}; it must be one of {', '.join(kinds)}.")
    return build(kinds[name], value, path)


def _kind(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "a yes/no value"
    return {int: "a whole number", float: "a number", str: "a text", list: "a list"}.get(
        type(value), "a section" if isinstance(value, Mapping) else type(value).__name__
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
