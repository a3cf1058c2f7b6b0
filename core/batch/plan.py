"""A batch file and the jobs it stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from megacontext.core.config import Config, dump_config, load_config, parse_config
from megacontext.core.config.yamls import parse_mapping
from megacontext.traces.errors import ConfigError, MegaContextError
from megacontext.traces.packaged import config_hint, find_config

__all__ = ["Job", "Plan", "load_plan"]

_NAME = re.compile(r"[\w.=+-]*")
_KEYS = ("configs", "seeds", "overrides", "streams", "out")


@dataclass(frozen=True)
class Job:
    """One run. ``config`` is the resolved YAML, ``trace`` where its rows go."""

    name: str
    source: str
    seed: int
    override: str
    stream: str
    config: str
    trace: Path


@dataclass(frozen=True)
class Plan:
    """All jobs of a batch, in order, and the folder of their results."""

    out: Path
    jobs: tuple[Job, ...]


def load_plan(path: Path, out: Path | None = None) -> Plan:
    """The jobs of a batch file: every config with every seed, override and stream.

    ``configs`` are paths from the batch file's folder (YAML, or traces whose config is taken) or
    names of packaged configs,
    ``seeds`` numbers (default: each config's own), ``overrides`` named lists of ``key=value``,
    ``streams`` named ``source`` sections that replace the config's, ``out`` a folder. A job runs
    on one thread unless its config says otherwise, so that figures do not depend on the number
    of workers.

    Raises:
        ConfigError: the file cannot be read or a job's config is refused; the job is named.
    """
    path = find_config(path)
    raw = _read(path)
    for key in raw:
        if key not in _KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}; legal: {', '.join(_KEYS)}.")

    folder = out or Path(_typed(raw.get("out", f"runs/{path.stem}"), str, "out", path))
    configs = _list(raw.get("configs"), str, "configs", path)
    if not configs:
        raise ConfigError(f"{path}: configs is empty; name at least one config.")
    seeds: list[int | None] = [*_list(raw.get("seeds", []), int, "seeds", path)] or [None]
    overrides = _named(raw.get("overrides"), "overrides", path)
    streams = _named(raw.get("streams"), "streams", path)

    # Every config with every seed, override and stream.
    jobs: dict[str, Job] = {}
    for config, seed, override, stream in product(configs, seeds, overrides, streams):
        source = path.parent / config
        if not source.is_file():  # or a packaged config
            source = find_config(Path(config))
        parts = [source.stem, override, stream, "" if seed is None else f"s{seed}"]
        name = "-".join(part for part in parts if part)
        if name in jobs:
            raise ConfigError(
                f"{path}: two jobs are called {name!r}; give their configs two names."
            )
        settings = _list(overrides[override], str, f"overrides.{override}", path)
        try:
            resolved = _config(source, seed, settings, streams[stream])
        except MegaContextError as error:
            raise ConfigError(f"job {name}: {error}") from error
        trace = folder / "traces" / f"{name}.arrow"
        jobs[name] = Job(
            name, config, resolved.seed, override, stream, dump_config(resolved), trace
        )
    return Plan(folder, tuple(jobs.values()))


def _config(source: Path, seed: int | None, settings: list[str], stream: object) -> Config:
    raw = yaml.safe_load(dump_config(load_config(source)))
    if stream:
        raw["source"] = stream
    if seed is not None:
        raw["seed"] = seed
    config = parse_config(yaml.safe_dump(raw), settings, where=str(source))
    if config.tree.storage == "disk":
        raise ConfigError(
            f"tree.storage is disk ({config.tree.path}), which jobs would share; set it to ram."
        )
    return replace(config, threads=config.threads or 1)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(
            f"Batch file {path} cannot be read ({why}); {config_hint(path)}"
        ) from error
    return parse_mapping(text, f"Batch file {path}")


def _typed(value: Any, kind: type, key: str, path: Path) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        names = {str: "a text", int: "a whole number"}
        raise ConfigError(f"{path}: {key} is {value!r:.60}; it must be {names[kind]}.")
    return value


def _list(value: Any, kind: type, key: str, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{path}: {key} is {value!r:.60}; it must be a list.")
    return [_typed(item, kind, f"{key}[{i}]", path) for i, item in enumerate(value)]


def _named(value: Any, key: str, path: Path) -> Mapping[str, Any]:
    """Named items; nothing given is one nameless item that changes nothing."""
    if value is None:
        return {"": []}
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{path}: {key} is {value!r:.60}; it must be a mapping of names.")
    for name in value:
        if not _NAME.fullmatch(str(name)):
            raise ConfigError(
                f"{path}: {key} has the name {str(name)!r:.60}, which becomes part of a file name; "
                "use letters, digits and . _ = + -."
            )
    return {str(name): item if item is not None else [] for name, item in value.items()}
