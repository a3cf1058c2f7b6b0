"""OpenTelemetry: gauges, a histogram of refocus time, and a span a refocus, by OTLP over HTTP."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from megacontext.core.telemetry.sinks import About, MetricSink, Row, Span, library, package_version

__all__ = ["OtelSink"]

_STAGE = "us_"


class OtelSink(MetricSink):
    """Gauges ``megacontext.<scope>.*`` to an OpenTelemetry collector.

    Endpoint, headers and interval are the standard OTEL_EXPORTER_OTLP_* and
    OTEL_METRIC_EXPORT_INTERVAL variables. A gauge reports its newest value once per interval and
    at the end; a collector that is away is logged by the library and never stops a run. Stage
    times are also a histogram, ``megacontext.stage.duration`` in seconds by ``megacontext.stage``.
    Spans are exported in batches by the library's own thread, all below one span of the run.
    """

    def __init__(self, folder: Path, about: About) -> None:
        metrics = library("opentelemetry.sdk.metrics", "otel")
        reading = library("opentelemetry.sdk.metrics.export", "otel")
        resources = library("opentelemetry.sdk.resources", "otel")
        otlp = library("opentelemetry.exporter.otlp.proto.http.metric_exporter", "otel")
        # A collector that is away is known after the first sentence about it.
        logging.getLogger("opentelemetry.sdk.metrics").setLevel(logging.CRITICAL)
        resource = resources.Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME", "megacontext"),
                "service.version": package_version(),
                "service.instance.id": f"{about.name}-{os.getpid()}",
                "megacontext.run": about.name,
                **about.attributes,
            }
        )
        reader = reading.PeriodicExportingMetricReader(otlp.OTLPMetricExporter(timeout=5))
        self._provider = metrics.MeterProvider(metric_readers=[reader], resource=resource)
        self._meter = self._provider.get_meter(f"megacontext.{about.scope}")
        self._resource, self._about = resource, about
        self._gauges: dict[str, Any] = {}
        self._durations: Any | None = None
        self._spans: _Spans | None = None

    def write(self, step: int, row: Row) -> None:
        for key, value in {"step": step, **row}.items():
            if isinstance(value, str):
                continue
            if key not in self._gauges:
                name = f"megacontext.{self._about.scope}.{key}"
                self._gauges[key] = self._meter.create_gauge(name)
            self._gauges[key].set(value)
            if key.startswith(_STAGE) and value:
                self._duration(key.removeprefix(_STAGE), float(value) / 1e6)

    def _duration(self, stage: str, seconds: float) -> None:
        if self._durations is None:
            self._durations = self._meter.create_histogram(
                "megacontext.stage.duration",
                unit="s",
                description="time of a refocus's stage",
                explicit_bucket_boundaries_advisory=[1e-4 * 2**i for i in range(16)],
            )
        self._durations.record(seconds, {"megacontext.stage": stage})

    def span(self, span: Span) -> None:
        if self._spans is None:
            self._spans = _Spans(self._resource, self._about, span.start_ns)
        self._spans.add(span)

    def close(self) -> None:
        if self._spans is not None:
            self._spans.close()
        self._provider.shutdown()


class _Spans:
    """The spans of a run, below one of its own that ends with the last."""

    def __init__(self, resource: Any, about: About, start_ns: int) -> None:
        sdk = library("opentelemetry.sdk.trace", "otel")
        export = library("opentelemetry.sdk.trace.export", "otel")
        otlp = library("opentelemetry.exporter.otlp.proto.http.trace_exporter", "otel")
        self._trace = library("opentelemetry.trace", "otel")
        self._provider = sdk.TracerProvider(resource=resource)
        exporter = otlp.OTLPSpanExporter(timeout=5)
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("megacontext")
        self._root = self._tracer.start_span(
            about.scope, start_time=start_ns, attributes=dict(about.attributes)
        )
        self._context = self._trace.set_span_in_context(self._root)
        self._end_ns = start_ns

    def add(self, span: Span) -> None:
        child = self._tracer.start_span(
            span.name,
            context=self._context,
            start_time=span.start_ns,
            attributes=dict(span.attributes),
        )
        child.end(span.end_ns)
        self._end_ns = max(self._end_ns, span.end_ns)

    def close(self) -> None:
        self._root.end(self._end_ns)
        self._provider.shutdown()
