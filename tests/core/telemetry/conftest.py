"""A short run over the tiny model, and an OTLP receiver on this machine."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megacontext.core.config import Config, parse_config


@pytest.fixture
def make_config(model_folder: Path, tmp_path: Path) -> Any:
    """A config over the tiny model; arguments are settings as ``--set`` takes them."""
    rng = np.random.default_rng(5)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(40)]
    text = tmp_path / "text.txt"
    text.write_text(" ".join(rng.choice(words, 700)))
    base = f"""
w_max: 128
block_size: 8
model: {{path: {model_folder}, dtype: float32}}
tree: {{max_levels: 3}}
lens: {{kind: random}}
kv: {{drift_every: 16}}
trace: {{delta_nll_every: 8, horizon: 32}}
source: {{kind: text, path: {text}, max_tokens: 600, decode_tokens: 24}}
"""

    def make(*settings: str) -> Config:
        return parse_config(base, settings)

    return make


@dataclass
class Collector:
    """What an OTLP receiver got, by path."""

    bodies: list[tuple[str, bytes]] = field(default_factory=list)

    def gauges(self) -> dict[str, float]:
        """Newest value of every gauge."""
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

        values: dict[str, float] = {}
        for path, body in self.bodies:
            if path == "/v1/metrics":
                got = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
                for resource in got.resource_metrics:
                    for metric in (m for scope in resource.scope_metrics for m in scope.metrics):
                        for point in metric.gauge.data_points:
                            values[metric.name] = point.as_double or float(point.as_int)
        return values

    def spans(self) -> list[Any]:
        """All spans, in order of arrival."""
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

        spans = []
        for path, body in self.bodies:
            if path == "/v1/traces":
                got = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
                for resource in got.resource_spans:
                    spans += [span for scope in resource.scope_spans for span in scope.spans]
        return spans


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """An OTLP receiver that the standard variables point at."""
    collector = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.bodies.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the test's output."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    yield collector
    server.shutdown()
    thread.join()
    server.server_close()
