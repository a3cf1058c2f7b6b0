"""YAML to :class:`Config`: unknown keys, wrong types and illegal values are refused by key path."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from megacontext.core.config.fields import legal_of
from megacontext.core.config.kinds import check_kinds
from megacontext.core.config.recorded import as_recorded, focus_as_recorded, lens_as_overridden
from megacontext.core.config.schema import Config, FocusConfig
from megacontext.core.config.yamls import parse_mapping
from megacontext.core.utf8 import check_utf8
from megacontext.traces.errors import BudgetError, ConfigError
from megacontext.traces.packaged import config_hint, find_config

__all__ = [
    "build",
    "check_lag",
    "dump_config",
    "load_config",
    "parse_config",
    "recorded_focus",
    "smallest_w_max",
]

T = TypeVar("T")

SINK_NAMES = ("tensorboard", "wandb", "otel", "prometheus")
"""Where telemetry may go."""

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def load_config(path: Path | str, overrides: Iterable[str] = ()) -> Config:
    """The config in a YAML file, or in the metadata of a trace (``*.arrow``).

    Args:
        path: the file, or the name of a packaged config (``demo``).
        overrides: ``key.path=value`` settings, applied in order; values are YAML.

    Raises:
        ConfigError: one sentence with the key path, the value and the legal range.
    """
    path = find_config(Path(path))
    recorded = path.suffix == ".arrow"
    text = _config_of_trace(path) if recorded else _read(path)
    if not parse_mapping(text, str(path)):
        raise ConfigError(
            f"Config {path} is empty or holds only comments; set a key in it, or start from a "
            "packaged config: `megacontext configs copy text`."
        )
    return parse_config(text, overrides, where=str(path), recorded=recorded)


def parse_config(
    text: str,
    overrides: Iterable[str] = (),
    where: str = "config",
    *,
    recorded: bool = False,
) -> Config:
    """Like :func:`load_config` for YAML text.

    Args:
        recorded: the text is a trace's; a key that is younger than it gets the value that acts
            as the version before that key did, not today's default.
    """
    raw = parse_mapping(text, where)
    if recorded:
        raw = as_recorded(raw)
    overrides = list(overrides)
    for setting in overrides:
        _override(raw, setting)
    if recorded:
        raw = lens_as_overridden(raw, overrides)
    config = build(Config, raw, "")
    _check(config)
    if not recorded:  # older versions took keys that the chosen kind does not read
        check_kinds(config)
    return config


def dump_config(config: Config) -> str:
    """The full resolved config as YAML; ``parse_config`` gives an equal config back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def recorded_focus(raw: object, path: str) -> FocusConfig:
    """The ``focus`` section that a trace's ``knobs`` column holds.

    Raises:
        ConfigError: an unknown key, a wrong type or an illegal value below ``path``.
    """
    return build(FocusConfig, focus_as_recorded(raw), path)


def smallest_w_max(config: Config) -> int:
    """Entries that the smallest legal frontier, a tail and the headroom can need."""
    k = config.block_size
    return (k - 1) * config.tree.max_levels + config.focus.protected_blocks * k + 2 * k


def check_lag(focus: FocusConfig, block_size: int) -> None:
    """Refuse a lag beyond which the next block closes.

    Raises:
        ConfigError: ``focus.lag`` is not below ``block_size``.
    """
    if focus.lag >= block_size:
        raise ConfigError(
            f"focus.lag is {focus.lag}; it must be below block_size {block_size}, so that an edit "
            "reaches the window before the next block closes."
        )


def _check(config: Config) -> None:
    unknown = [name for name in config.telemetry.sinks if name not in SINK_NAMES]
    if unknown:
        raise ConfigError(
            f"telemetry.sinks has {unknown[0]!r}; it must be a list of {', '.join(SINK_NAMES)}."
        )

    least = smallest_w_max(config)
    if config.w_max < least:
        raise BudgetError(
            f"w_max is {config.w_max}, below the smallest legal frontier of {least} entries for "
            f"block_size {config.block_size}, tree.max_levels {config.tree.max_levels} and "
            f"focus.protected_blocks {config.focus.protected_blocks}; raise w_max to at least "
            f"{least} or lower one of these."
        )
    check_lag(config.focus, config.block_size)

    if config.tree.storage == "disk" and not config.tree.path:
        raise ConfigError(
            "tree.path is empty but tree.storage is disk; set tree.path or pass --tree DIR."
        )

    # Checkpoints belong to the kinds that read them.
    for key, kind, needs in (
        ("gist", config.gist, ("gistnet",)),
        ("lens", config.lens, ("lensnet", "heads")),
        ("allocator", config.allocator, ("learned", "transformer")),
    ):
        if kind.path and kind.kind not in (*needs, "auto"):
            raise ConfigError(
                f"{key}.path is {kind.path!r} but {key}.kind is {kind.kind}, which reads no "
                f"checkpoint; set {key}.kind to {' or '.join(needs)}."
            )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"Config {path} does not exist; {config_hint(path)}") from error
    except IsADirectoryError as error:
        raise ConfigError(f"Config {path} is a folder; name a YAML file in it.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"Config {path} is not UTF-8 text; save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"Config {path} cannot be read: {error.strerror}.") from error


def _config_of_trace(path: Path) -> str:
    from megacontext.traces.reader import TraceReader

    with TraceReader.open(path) as reader:
        return reader.meta.config


def _override(raw: dict[str, Any], setting: str) -> None:
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting!r} has no '='; write --set key.path=value.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {value!r} is not a YAML value; quote it.") from error
    *parents, last = key.split(".")
    node: Any = raw
    for name in parents:
        node = node.setdefault(name, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise ConfigError(f"--set {key}: {name} is not a section; see the keys of the config.")
    node[last] = parsed


def build(kind: type[T], raw: object, path: str) -> T:
    """``raw`` (YAML) as an instance of the dataclass ``kind``.

    Raises:
        ConfigError: an unknown key, a wrong type or an illegal value below ``path``.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path or 'config'} is {_kind(raw)}; it must be a section with keys.")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in raw.items():
        name = f"{path}.{key}" if path else str(key)
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {close[0]}?" if close else "legal: " + ", ".join(fields) + "."
            raise ConfigError(f"Unknown key {name} (value {_short(value)}); {hint}")
        typed = _convert(hints[key], value, name)
        legal = legal_of(fields[key])
        if typed is not None and not legal.admits(typed):
            raise ConfigError(f"{name} is {_short(value)}; it must be {legal.describe()}.")
        values[key] = typed
    return kind(**values)


def _convert(kind: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        members = typing.get_args(kind)
        if all(dataclasses.is_dataclass(m) for m in members):
            return _convert_kind(members, value, path)
        if value is None and type(None) in members:
            return None
        return _convert(next(m for m in members if m is not type(None)), value, path)

    # Literals are checked by their option's choices.
    if origin is Literal:
        return value
    if origin is list:
        if not isinstance(value, list):
            raise ConfigError(f"{path} is {_kind(value)}; it must be a list.")
        (member,) = typing.get_args(kind)
        return [_convert(member, v, f"{path}[{i}]") for i, v in enumerate(value)]
    if dataclasses.is_dataclass(kind):
        return build(typing.cast(type, kind), value, path)

    # Plain values: a whole number will do for a number, a yes/no value will not.
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (kind is not bool and isinstance(value, bool)) or not isinstance(value, kind):
        raise ConfigError(f"{path} is {_short(value)} ({_kind(value)}); it must be {_NAMES[kind]}.")
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
