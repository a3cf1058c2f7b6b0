"""Where training figures go: CSV and Arrow always, other sinks when asked for.

A sink takes one flat row at a time. ``MetricSink`` itself does nothing, so callers never test
whether logging is on; sinks import their library when they are made, not before.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from megacontext.traces.errors import ConfigError

__all__ = ["MetricSink", "Metrics", "TensorBoardSink", "WandbSink", "make_sinks"]

Row = Mapping[str, float | int | str]


class MetricSink:
    """A sink that drops everything; the base of all others."""

    def write(self, step: int, row: Row) -> None:
        """Take the figures of one step."""

    def close(self) -> None:
        """Flush and let go; called once."""


def _library(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"sinks: {extra!r} needs a package that is not installed; "
            f"run `pip install 'megacontext[{extra}]'`."
        ) from error


class TensorBoardSink(MetricSink):
    """Scalars for TensorBoard under ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._writer = _library("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder))

    def write(self, step: int, row: Row) -> None:
        for key, value in row.items():
            if not isinstance(value, str):
                self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbSink(MetricSink):
    """Weights & Biases, offline unless the environment says otherwise."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        module = _library("wandb", "wandb")
        self._run = module.init(project="megacontext", dir=str(folder), mode="offline")

    def write(self, step: int, row: Row) -> None:
        self._run.log(dict(row), step=step)

    def close(self) -> None:
        self._run.finish()


_SINKS = {"tensorboard": TensorBoardSink, "wandb": WandbSink}


def make_sinks(names: Sequence[str], folder: Path) -> list[MetricSink]:
    """Sinks by name (``tensorboard``, ``wandb``), each writing below ``folder``."""
    unknown = [name for name in names if name not in _SINKS]
    if unknown:
        options = ", ".join(_SINKS)
        raise ConfigError(f"sinks: {unknown[0]!r} is unknown; choose from {options}.")
    return [_SINKS[name](folder / name) for name in names]


class Metrics:
    """``metrics.csv`` (appended, readable while training) and ``metrics.arrow`` (at the end).

    The columns are fixed by ``columns``; a row may leave some out. A resumed run keeps the rows
    up to its step and drops later ones, so the curve has no doubles.
    """

    def __init__(
        self, folder: Path, columns: Sequence[str], sinks: Sequence[MetricSink] = (), step: int = 0
    ) -> None:
        self._columns = ("step", *columns)
        self._path = folder / "metrics.csv"
        self._sinks = list(sinks)
        folder.mkdir(parents=True, exist_ok=True)
        self._rows: list[dict[str, str]] = []
        if self._path.is_file() and step > 0:
            with self._path.open(encoding="utf8", newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        with self._path.open("w", encoding="utf8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(self._rows)

    def write(self, step: int, row: Row) -> None:
        """Append one row; values that are None-like are left empty."""
        full = {"step": str(step), **{k: _text(v) for k, v in row.items()}}
        self._rows.append(full)
        with self._path.open("a", encoding="utf8", newline="") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(full)
        for sink in self._sinks:
            sink.write(step, row)

    def close(self) -> None:
        """Write ``metrics.arrow`` (float64 columns, null where a row had no value)."""
        arrays = []
        for column in self._columns:
            values = [row.get(column, "") for row in self._rows]
            if column == "step":
                arrays.append(pa.array([int(v) for v in values], pa.int64()))
            else:
                arrays.append(pa.array([float(v) if v else None for v in values], pa.float64()))
        batch = pa.record_batch(arrays, names=list(self._columns))
        target = self._path.with_suffix(".arrow")
        partial = target.with_suffix(".tmp")
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, batch.schema) as out:
            out.write_batch(batch)
        partial.replace(target)
        for sink in self._sinks:
            sink.close()


def _text(value: float | int | str) -> str:
    return format(value, ".6g") if isinstance(value, float) else str(value)
