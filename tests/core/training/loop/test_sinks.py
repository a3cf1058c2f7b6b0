"""Metric sinks: what was logged arrives, read back by each library's own reader."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megacontext.core.config.settings import load
from megacontext.core.telemetry.sinks import About, MetricSink, make_sinks
from megacontext.core.training.base.task import BaseConfig, train_base
from megacontext.traces.errors import ConfigError

ROWS = [(1, {"loss": 3.5, "norm": 1.0}), (2, {"loss": 2.25, "note": "text"})]


def _log(sink: MetricSink) -> None:
    for step, row in ROWS:
        sink.write(step, row)
    sink.close()


def test_unknown_sinks_and_missing_packages_are_refused_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="sinks: 'mlflow' is unknown; choose from tensorboard"):
        make_sinks(["mlflow"], tmp_path, About("run"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"'wandb' needs a package.*megacontext\[wandb\]"):
        make_sinks(["wandb"], tmp_path, About("run"))


def test_tensorboard_holds_the_curve_and_hides_what_a_resumed_run_repeats(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (sink,) = make_sinks(["tensorboard"], tmp_path, About("run"))
    _log(sink)
    (sink,) = make_sinks(["tensorboard"], tmp_path, About("run", step=1))
    sink.write(2, {"loss": 2.0})
    sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 3.5), (2, 2.0)]


def test_wandb_writes_an_offline_run_with_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    (sink,) = make_sinks(["wandb"], tmp_path / "run", About("run"))
    _log(sink)
    (path,) = (tmp_path / "run").rglob("offline-run-*/run-*.wandb")
    data = path.read_bytes()  # a log of protocol buffers; figures are JSON texts in it
    assert all(text in data for text in (b"loss", b"3.5", b"2.25", b"norm"))


class _Receiver(http.server.BaseHTTPRequestHandler):
    bodies: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        self.bodies.append((self.path, self.rfile.read(size)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the test's output."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bytes]]]:
    """An OTLP receiver on this machine that the standard variables point at."""
    bodies: list[tuple[str, bytes]] = []
    handler = type("Handler", (_Receiver,), {"bodies": bodies})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    yield bodies
    server.shutdown()
    thread.join()
    server.server_close()


def _gauges(bodies: list[tuple[str, bytes]]) -> tuple[dict[str, float], dict[str, str]]:
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

    values: dict[str, float] = {}
    about: dict[str, str] = {}
    for path, body in bodies:
        assert path == "/v1/metrics"
        request = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
        for resource in request.resource_metrics:
            about |= {a.key: a.value.string_value for a in resource.resource.attributes}
            for metric in (m for scope in resource.scope_metrics for m in scope.metrics):
                point = metric.gauge.data_points[-1]
                values[metric.name] = point.as_double or float(point.as_int)
    return values, about


def test_a_training_run_sends_its_last_figures_to_an_otlp_collector(
    base_config: Path, tmp_path: Path, collector: list[tuple[str, bytes]]
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    config = load(BaseConfig, base_config, ["loop.sinks=[otel]"])
    figures = train_base(config, tmp_path / "run", device="cpu")
    values, about = _gauges(collector)
    assert values["megacontext.train.step"] == 8
    assert values["megacontext.train.score"] == pytest.approx(figures["score"])
    assert values["megacontext.train.loss"] > 0
    assert about["service.name"] == "megacontext"
    assert about["megacontext.run"] == "run"
