"""Other places for training figures, beside CSV and Arrow: TensorBoard, W&B, OpenTelemetry.

A sink takes one flat row at a time. It imports its library when it is made, not before, so a
missing extra is refused before the first step and costs nothing where it is not asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from megacontext.traces.errors import ConfigError

__all__ = ["MetricSink", "OtelSink", "TensorBoardSink", "WandbSink", "make_sinks"]

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
    """Scalars for TensorBoard under ``folder``; a resumed run hides what lay behind its step."""

    def __init__(self, folder: Path, step: int) -> None:
        module = _library("torch.utils.tensorboard", "tensorboard")
        self._writer = module.SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, step: int, row: Row) -> None:
        for key, value in row.items():
            if not isinstance(value, str):
                self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbSink(MetricSink):
    """Weights & Biases under ``folder``: offline unless WANDB_MODE says otherwise.

    An offline run is uploaded later by ``wandb sync``.
    """

    def __init__(self, folder: Path, step: int) -> None:
        module = _library("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = module.init(
            project=os.environ.get("WANDB_PROJECT", "megacontext"),
            name=folder.parent.name,
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )

    def write(self, step: int, row: Row) -> None:
        self._run.log(dict(row), step=step)

    def close(self) -> None:
        self._run.finish()


class OtelSink(MetricSink):
    """Gauges ``megacontext.train.*`` to an OpenTelemetry collector, by OTLP over HTTP.

    Endpoint, headers and interval are the standard OTEL_EXPORTER_OTLP_* and
    OTEL_METRIC_EXPORT_INTERVAL variables. A gauge reports its newest value once per interval and
    at the end; a collector that is away is logged by the library and never stops training.
    """

    def __init__(self, folder: Path, step: int) -> None:
        metrics = _library("opentelemetry.sdk.metrics", "otel")
        reading = _library("opentelemetry.sdk.metrics.export", "otel")
        resources = _library("opentelemetry.sdk.resources", "otel")
        otlp = _library("opentelemetry.exporter.otlp.proto.http.metric_exporter", "otel")
        name = os.environ.get("OTEL_SERVICE_NAME", "megacontext")
        about = {"service.name": name, "megacontext.run": folder.parent.name}
        reader = reading.PeriodicExportingMetricReader(otlp.OTLPMetricExporter())
        self._provider = metrics.MeterProvider(
            metric_readers=[reader], resource=resources.Resource.create(about)
        )
        self._meter = self._provider.get_meter("megacontext.training")
        self._gauges: dict[str, Any] = {}

    def write(self, step: int, row: Row) -> None:
        for key, value in {"step": step, **row}.items():
            if isinstance(value, str):
                continue
            if key not in self._gauges:
                self._gauges[key] = self._meter.create_gauge(f"megacontext.train.{key}")
            self._gauges[key].set(value)

    def close(self) -> None:
        self._provider.shutdown()


_SINKS = {"tensorboard": TensorBoardSink, "wandb": WandbSink, "otel": OtelSink}


def make_sinks(names: Sequence[str], folder: Path, step: int = 0) -> list[MetricSink]:
    """Sinks by name (``tensorboard``, ``wandb``, ``otel``), each writing below ``folder``.

    Args:
        step: where a resumed run goes on; 0 for a new one.

    Raises:
        ConfigError: an unknown name, or its package is not installed.
    """
    unknown = [name for name in names if name not in _SINKS]
    if unknown:
        options = ", ".join(_SINKS)
        raise ConfigError(f"sinks: {unknown[0]!r} is unknown; choose from {options}.")
    return [_SINKS[name](folder / name, step) for name in names]
