"""Where metrics go: TensorBoard, W&B, OpenTelemetry, Prometheus text. One protocol for all.

A trainer and a running session write to the same sinks. A sink takes one flat row of numbers at a
time. It imports its library when it is made, not before, so a missing extra is refused before the
first step and costs nothing where it is not asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from megacontext.core.config.load import SINK_NAMES
from megacontext.traces.errors import ConfigError

__all__ = ["SINKS", "About", "MetricSink", "Span", "library", "make_sinks"]

Row = Mapping[str, float | int | str]
SINKS = SINK_NAMES


@dataclass(frozen=True)
class About:
    """Whose metrics these are.

    Attributes:
        name: of the run, as dashboards show it.
        scope: first part of a metric's name: ``train`` or ``session``.
        step: where a resumed run goes on; 0 for a new one.
        attributes: of the run, for sinks that take some; never a text of the session.
        port: of the Prometheus endpoint on 127.0.0.1; 0: a file alone.
    """

    name: str
    scope: str = "train"
    step: int = 0
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    port: int = 0


@dataclass(frozen=True)
class Span:
    """A stretch of time: Unix nanoseconds, with attributes."""

    name: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, str | int | float]


class MetricSink:
    """A sink that drops everything; the base of all others."""

    def write(self, step: int, row: Row) -> None:
        """Take the metrics of one step."""

    def span(self, span: Span) -> None:
        """Take a stretch of time; sinks of numbers alone drop it."""

    def flush(self) -> None:
        """A batch of rows is complete."""

    def close(self) -> None:
        """Flush and let go; called once."""


def library(name: str, extra: str) -> Any:
    """The module ``name``.

    Raises:
        ConfigError: it is not installed; the sentence names the extra.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"sinks: {extra!r} needs a package that is not installed; "
            f"run `pip install 'megacontext[{extra}]'`."
        ) from error


class TensorBoardSink(MetricSink):
    """Scalars for TensorBoard under ``folder``; a resumed run hides what lay behind its step.

    The values of a row are one event, so that a row costs one write.
    """

    def __init__(self, folder: Path, about: About) -> None:
        module = library("torch.utils.tensorboard", "tensorboard")
        self._summary = library("tensorboard.compat.proto.summary_pb2", "tensorboard").Summary
        purge = about.step + 1 if about.step else None
        self._writer = module.SummaryWriter(str(folder), purge_step=purge)

    def write(self, step: int, row: Row) -> None:
        values = [
            self._summary.Value(tag=key, simple_value=value)
            for key, value in row.items()
            if not isinstance(value, str)
        ]
        self._writer.file_writer.add_summary(self._summary(value=values), step)

    def close(self) -> None:
        self._writer.close()


class WandbSink(MetricSink):
    """Weights & Biases under ``folder``: offline unless WANDB_MODE says otherwise.

    An offline run is uploaded later by ``wandb sync``. Neither code nor console output is kept.
    """

    def __init__(self, folder: Path, about: About) -> None:
        module = library("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"console": "off", "save_code": False, "x_disable_stats": True, "silent": True}
        self._run = module.init(
            project=os.environ.get("WANDB_PROJECT", "megacontext"),
            name=about.name,
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(about.attributes),
            settings=module.Settings(**settings),
        )

    def write(self, step: int, row: Row) -> None:
        self._run.log(dict(row), step=step)

    def close(self) -> None:
        self._run.finish()


def _sink(name: str) -> Callable[[Path, About], MetricSink]:
    if name == "otel":
        from megacontext.core.telemetry.otel import OtelSink

        return OtelSink
    if name == "prometheus":
        from megacontext.core.telemetry.prometheus import PrometheusSink

        return PrometheusSink
    return {"tensorboard": TensorBoardSink, "wandb": WandbSink}[name]


def make_sinks(names: Sequence[str], folder: Path, about: About) -> list[MetricSink]:
    """Sinks by name (see ``SINKS``), each writing below ``folder`` if it writes files.

    Raises:
        ConfigError: an unknown name, or its package is not installed.
    """
    unknown = [name for name in names if name not in SINKS]
    if unknown:
        raise ConfigError(f"sinks: {unknown[0]!r} is unknown; choose from {', '.join(SINKS)}.")
    return [_sink(name)(folder / name, about) for name in names]


def package_version() -> str:
    """The version of this package."""
    return version("megacontext")
