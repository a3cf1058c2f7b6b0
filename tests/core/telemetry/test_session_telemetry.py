"""A session's metrics in every sink are those of its trace, and nothing else of it is."""

from __future__ import annotations

import json
import re
import socket
import struct
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megacontext.core.runtime.run import run
from megacontext.core.telemetry.measure import RunTotals, refocus_metrics
from megacontext.core.telemetry.sinks import About, MetricSink, make_sinks
from megacontext.core.telemetry.stream import TelemetryStream
from megacontext.traces.metrics import metrics_of, series_of
from megacontext.traces.reader import TraceReader
from megacontext.traces.refocuses import Refocus
from megacontext.traces.row import TraceRow

TOTALS = (
    *("refocuses", "rows", "history_tokens", "expands", "collapses", "forced", "swap_rate"),
    *("residency", "utilization", "thrash", "kv_drift_mean", "kv_drift_max", "delta_nll"),
    *("nll", "nll_ingest", "nll_decode"),
)


def trace_metrics(trace: Path) -> dict[str, Any]:
    with TraceReader.open(trace) as reader:
        return metrics_of(reader)


def assert_same(values: dict[str, float], trace: Path, prefix: str) -> None:
    expected = trace_metrics(trace)
    assert expected["swap_rate"] > 0
    assert expected["delta_nll"] is not None
    for name in TOTALS:
        assert values[prefix + name] == pytest.approx(expected[name], abs=1e-6, rel=1e-6), name


def test_otlp_gets_the_traces_own_metrics_and_a_span_for_every_refocus(
    make_config: Any, tmp_path: Path, collector: Any
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    result = run(make_config("telemetry.sinks=[otel]"), tmp_path / "a.arrow", control=False)
    assert_same(collector.gauges(), result.trace, "megacontext.session.run.")

    spans = collector.spans()
    refocuses = [span for span in spans if span.name == "refocus"]
    (root,) = [span for span in spans if span.name == "session"]
    assert {span.parent_span_id for span in refocuses} == {root.span_id}
    steps = [_attribute(span, "megacontext.refocus.step") for span in refocuses]
    assert sorted(steps) == list(range(trace_metrics(result.trace)["refocuses"]))
    assert _attribute(root, "gen_ai.request.model") == make_config().model.path.rpartition("/")[2]
    assert all(root.start_time_unix_nano <= s.start_time_unix_nano for s in refocuses[:1])

    # A collector writes the dots of a name as underscores: these are what the dashboard asks for.
    assert _asked_by_the_dashboard() <= {name.replace(".", "_") for name in collector.gauges()}


def _asked_by_the_dashboard() -> set[str]:
    root = Path(__file__).parents[3]
    dashboard = json.loads((root / "docs/grafana/megacontext.json").read_text())
    return set(re.findall(r"megacontext_session_\w+", json.dumps(dashboard)))


def _attribute(span: Any, name: str) -> Any:
    (value,) = [a.value for a in span.attributes if a.key == name]
    return getattr(value, value.WhichOneof("value"))


def test_tensorboard_has_every_refocus_and_the_totals(make_config: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = make_config("telemetry.sinks=[tensorboard]")
    result = run(config, tmp_path / "a.arrow", control=False)
    events = EventAccumulator(str(tmp_path / "a.telemetry/tensorboard"), {"scalars": 0})
    events.Reload()
    last = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    assert_same(last, result.trace, "run.")
    with TraceReader.open(result.trace) as reader:
        series = series_of(reader)
    read = [(e.step, e.value) for e in events.Scalars("swap_rate")]
    rated = ~np.isnan(series.swap_rate)
    assert [step for step, _ in read] == series.step[rated].tolist()
    np.testing.assert_allclose([v for _, v in read], series.swap_rate[rated], atol=1e-6)


def test_wandb_writes_the_same_offline(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.delenv("WANDB_MODE", raising=False)
    result = run(make_config("telemetry.sinks=[wandb]"), tmp_path / "a.arrow", control=False)
    (path,) = (tmp_path / "a.telemetry").rglob("offline-run-*/run-*.wandb")
    last: dict[str, float] = {}
    for data in _wandb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        for item in record.history.item:
            key = item.key or "/".join(item.nested_key)
            last[key] = json.loads(item.value_json)
    assert_same(last, result.trace, "run.")


def _wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a W&B log: LevelDB's format (blocks of 32 KiB) behind 7 bytes of header."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32_768 - at % 32_768 < 7:
            at += 32_768 - at % 32_768
            continue
        size, part = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if part in (1, 4):  # whole, or its last part
            yield record
            record = b""


def test_prometheus_text_is_a_file_and_can_be_scraped_while_the_run_lasts(
    make_config: Any, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (sink,) = make_sinks(["prometheus"], tmp_path, About('a"b', scope="session", port=port))
    sink.write(4, {"swap_rate": 0.125})
    sink.flush()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    sink.close()
    assert 'megacontext_session_swap_rate{run="a\\"b"} 0.125\n' in text
    assert text == (tmp_path / "prometheus/metrics.prom").read_text()

    result = run(make_config("telemetry.sinks=[prometheus]"), tmp_path / "a.arrow", control=False)
    values = {}
    for line in (tmp_path / "a.telemetry/prometheus/metrics.prom").read_text().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            values[name.partition("{")[0]] = float(value)
    assert_same(values, result.trace, "megacontext_session_run_")


def test_no_sink_gets_a_text_or_a_token_of_the_session(make_config: Any, tmp_path: Path) -> None:
    config = make_config("telemetry.sinks=[prometheus]", "source.max_tokens=200")
    run(config, tmp_path / "a.arrow", control=False)
    written = b"".join(p.read_bytes() for p in (tmp_path / "a.telemetry").rglob("*.prom"))
    words = set(Path(config.source.path).read_text().split())
    assert words
    assert not [word for word in words if word.encode() in written]


def _refocus(step: int) -> tuple[Refocus, list[TraceRow]]:
    row = TraceRow(step=step, history_tokens=8 * step, budget_used=4, w_max=8, t_ns=step + 1)
    return Refocus(step, 2, 4, np.zeros(8), survived=3, utilization=0.5), [row]


class _Broken(MetricSink):
    def write(self, step: int, row: Any) -> None:
        raise OSError("no space left")


class _Rows(MetricSink):
    def __init__(self) -> None:
        self.rows: list[tuple[int, Any]] = []
        self.closed = False

    def write(self, step: int, row: Any) -> None:
        self.rows.append((step, row))

    def close(self) -> None:
        self.closed = True


def test_a_sink_that_fails_is_left_out_and_named_and_the_others_go_on() -> None:
    rows = _Rows()
    with TelemetryStream([_Broken(), rows], flush_s=60, limit=100) as stream:
        for step in range(3):
            stream.put(*_refocus(step), 0)
    assert stream.problems == ["telemetry to _broken stopped: OSError: no space left"]
    assert [step for step, _ in rows.rows] == [0, 1, 2]
    assert rows.closed
    assert rows.rows[-1][1]["run.residency"] == 0.75


def test_what_the_queue_cannot_take_is_dropped_and_counted_and_never_waited_for() -> None:
    rows = _Rows()
    with TelemetryStream([rows], flush_s=60, limit=2) as stream:
        for step in range(5):
            stream.put(*_refocus(step), 0)
    assert stream.dropped == 3
    assert [step for step, _ in rows.rows] == [0, 1]


def test_what_was_not_measured_is_left_out() -> None:
    refocus, rows = _refocus(0)
    metrics = refocus_metrics(refocus, rows)
    assert "nll" not in metrics
    assert "kv_drift" not in metrics
    totals = RunTotals()
    totals.add(refocus, rows)
    assert "run.delta_nll" not in totals.values()


def test_the_dashboard_asks_for_metrics_that_a_session_writes(
    make_config: Any, tmp_path: Path
) -> None:
    asked = _asked_by_the_dashboard()
    run(make_config("telemetry.sinks=[prometheus]"), tmp_path / "a.arrow", control=False)
    text = (tmp_path / "a.telemetry/prometheus/metrics.prom").read_text()
    assert len(asked) > 15
    assert asked <= set(re.findall(r"megacontext_session_\w+", text))
