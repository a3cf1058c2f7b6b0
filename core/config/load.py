"""The config of a run, from a file, a text or a trace, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import yaml

from megacontext.core.config.kinds import check_kinds
from megacontext.core.config.parser import apply_overrides, build, read_text
from megacontext.core.config.recorded import as_recorded, focus_as_recorded, lens_as_overridden
from megacontext.core.config.schema import Config, FocusConfig
from megacontext.core.config.yamls import parse_mapping
from megacontext.traces.errors import BudgetError, ConfigError
from megacontext.traces.packaged import find_config

__all__ = [
    "check_lag",
    "dump_config",
    "load_config",
    "parse_config",
    "recorded_focus",
    "smallest_w_max",
]

SINK_NAMES = ("tensorboard", "wandb", "otel", "prometheus")
"""Where telemetry may go."""


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
    text = _config_of_trace(path) if recorded else read_text(path)
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
    apply_overrides(raw, overrides)
    if recorded:
        raw = lens_as_overridden(raw, overrides)
    config = build(Config, raw)
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


def _config_of_trace(path: Path) -> str:
    from megacontext.traces.reader import TraceReader

    with TraceReader.open(path) as reader:
        return reader.meta.config
