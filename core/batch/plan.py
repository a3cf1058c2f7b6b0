"""A batch file and the jobs it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from megacontext.core.config import Config, build, dump_config, load_config, parse_config
from megacontext.core.config.parser import read_mapping
from megacontext.traces.errors import ConfigError, MegaContextError
from megacontext.traces.packaged import find_config

__all__ = ["BatchJob", "BatchPlan", "load_plan"]

_NAME = re.compile(r"[\w.=+-]*")


@dataclass(frozen=True)
class BatchJob:
    """One run. ``config`` is the resolved YAML, ``trace`` where its rows go."""

    name: str
    source: str
    seed: int
    override: str
    stream: str
    config: str
    trace: Path


@dataclass(frozen=True)
class BatchFile:
    """The keys of a batch file.

    Attributes:
        configs: paths from the file's folder (YAML, or traces whose config is taken), or names of
            packaged configs.
        seeds: default: each config's own.
        overrides: named lists of ``key=value``.
        streams: named ``source`` sections that replace the config's.
        out: the folder of the results; default: ``runs/`` and the file's name.
    """

    configs: list[str]
    seeds: list[int] = field(default_factory=list)
    overrides: dict[str, list[str] | None] | None = None
    streams: dict[str, dict[str, Any] | None] | None = None
    out: str | None = None


@dataclass(frozen=True)
class BatchPlan:
    """All jobs of a batch, in order, and the folder of their results."""

    out: Path
    jobs: tuple[BatchJob, ...]


def load_plan(path: Path, out: Path | None = None) -> BatchPlan:
    """The jobs of a batch file: every config with every seed, override and stream.

    The keys of the file are those of :class:`BatchFile`. A job runs on one thread unless its
    config says otherwise, so that figures do not depend on the number of workers.

    Raises:
        ConfigError: the file cannot be read or a job's config is refused; the job is named.
    """
    path = find_config(path)
    raw = read_mapping(path, "Batch file")
    try:
        batch = build(BatchFile, raw)
        _check(batch)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error

    # What is not given is one nameless item that changes nothing.
    folder = out or Path(batch.out or f"runs/{path.stem}")
    seeds: Sequence[int | None] = batch.seeds or [None]
    overrides = batch.overrides or {"": None}
    streams = batch.streams or {"": None}

    # Every config with every seed, override and stream.
    jobs: dict[str, BatchJob] = {}
    for config, seed, override, stream in product(batch.configs, seeds, overrides, streams):
        source = path.parent / config
        if not source.is_file():  # or a packaged config
            source = find_config(Path(config))
        parts = [source.stem, override, stream, "" if seed is None else f"s{seed}"]
        name = "-".join(part for part in parts if part)
        if name in jobs:
            raise ConfigError(
                f"{path}: two jobs are called {name!r}; give their configs two names."
            )
        try:
            resolved = _config(source, seed, overrides[override] or (), streams[stream])
        except MegaContextError as error:
            raise ConfigError(f"job {name}: {error}") from error
        trace = folder / "traces" / f"{name}.arrow"
        jobs[name] = BatchJob(
            name, config, resolved.seed, override, stream, dump_config(resolved), trace
        )
    return BatchPlan(folder, tuple(jobs.values()))


def _check(batch: BatchFile) -> None:
    if not batch.configs:
        raise ConfigError("configs is empty; name at least one config.")
    for key, names in (("overrides", batch.overrides), ("streams", batch.streams)):
        if names is not None and not names:
            raise ConfigError(f"{key} is empty; name an item or leave the key out.")
        for name in names or ():
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{key} has the name {name!r:.60}, which becomes part of a file name; use "
                    "letters, digits and . _ = + -."
                )


def _config(source: Path, seed: int | None, settings: Iterable[str], stream: object) -> Config:
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
