"""What a trace says about a run: swap rate, residency, detail, time to focus, latency.

Computed from rows alone. Levels are handled as arrays; Python loops only over refocuses and the
few nodes that each of them changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from megacontext.traces.facts import Planted, QuestionAbout
from megacontext.traces.reader import TraceReader
from megacontext.traces.refocuses import Refocus, RefocusFollower
from megacontext.traces.row import list_values
from megacontext.traces.schema import Phase
from megacontext.traces.state import apply_actions, starts_of

__all__ = ["Series", "metrics_of", "series_of", "time_to_focus"]

_COLUMNS = ("step", "round", "phase", "tail_tokens", "appended_levels", "levels", "actions")
_PHASE_START = re.compile(r"(?:^|; )(ingest|decode) @(\d+)")
_SUMS = ("new_nll", "budget_used", "w_max")
_FOLLOWED = (
    "step",
    "levels",
    "actions",
    "appended_levels",
    "history_tokens",
    "tail_tokens",
    *_SUMS,
)
_STAGES = ("us_gist", "us_lens", "us_alloc", "us_kv", "us_decode", "us_record")


@dataclass
class Series:
    """One value per refocus (all its rounds together), as arrays of length r.

    ``swap_rate`` is NaN where the frontier has no raw block, ``nll`` (nats per token) where no
    token was evaluated.
    """

    step: np.ndarray
    row: np.ndarray  # the refocus's first row
    raw_blocks: np.ndarray  # in the frontier that its first round scored
    nodes: np.ndarray
    voluntary: np.ndarray
    forced: np.ndarray
    expands: np.ndarray
    collapses: np.ndarray
    survived: np.ndarray  # nodes of that frontier that the refocus left alone
    reversals: np.ndarray  # actions that undo one of the last 10 refocuses
    utilization: np.ndarray
    nll: np.ndarray
    lod_nodes: np.ndarray  # I64[r, 8]: nodes by level (7: and above)
    lifetimes: np.ndarray = field(default_factory=lambda: np.empty(0))  # refocuses, ended nodes
    raw_lifetimes: np.ndarray = field(default_factory=lambda: np.empty(0))  # of raw blocks alone

    @property
    def swap_rate(self) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            rate: np.ndarray = np.where(
                self.raw_blocks > 0, self.voluntary / self.raw_blocks, np.nan
            )
        return rate

    @property
    def residency(self) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            fraction: np.ndarray = np.where(self.nodes > 0, self.survived / self.nodes, np.nan)
        return fraction


def _rows(reader: TraceReader, start: int = 0) -> Iterator[dict[str, Any]]:
    names = (*_COLUMNS, *_SUMS, "history_tokens")
    for first, batch in reader.project(names, reader.block_of(start)):
        if batch is None:
            continue
        lists = {
            name: list_values(batch.column(name), name)
            for name in ("levels", "appended_levels", "actions", "new_nll")
        }
        scalars = {
            name: batch.column(name).to_pylist() for name in batch.schema.names if name not in lists
        }
        for j in range(batch.num_rows):
            row: dict[str, Any] = {name: values[j] for name, values in scalars.items()}
            for name, (flat, offsets) in lists.items():
                row[name] = flat[offsets[j] : offsets[j + 1]]
            if len(row["levels"]) and row["levels"].min() < 0:
                continue  # a flipped sign; the checksum, which nobody read here, says so, too
            yield row | {"row": first + j}


def series_of(reader: TraceReader) -> Series:
    """Follow the whole trace once; scores are not read."""
    follower = RefocusFollower(reader.meta.block_size)
    refocuses: list[Refocus] = []
    first_rows: list[int] = []

    # The rounds of one refocus share one object; its first row is the one to show.
    for row in _rows(reader):
        refocus = follower.add(**{name: row[name] for name in _FOLLOWED})
        if not refocuses or refocuses[-1] is not refocus:
            refocuses.append(refocus)
            first_rows.append(row["row"])

    columns = {
        name: np.array([getattr(refocus, name) for refocus in refocuses])
        for name in Series.__dataclass_fields__
        if name != "row" and "lifetimes" not in name
    }

    # Without refocuses the array would lack its axis of levels.
    if not refocuses:
        columns["lod_nodes"] = np.empty((0, 8), np.int64)
    return Series(
        **columns,
        row=np.array(first_rows),
        lifetimes=np.array(follower.lifetimes),
        raw_lifetimes=np.array(follower.raw_lifetimes),
    )


def time_to_focus(reader: TraceReader) -> list[dict[str, Any]]:
    """For each ``question`` marker, how long until its needle is there in full detail.

    Markers: ``needle planted @start-stop`` or ``needle planted @start-stop NAME``; ``question
    @start-stop``, ``question about NAME``, or plain ``question``, which means the latest needle.
    ``refocuses`` is 0 when the question's own refocus brings it, None when it does not come before
    the next question or the end. ``already`` says that it was raw when the question came.
    """
    markers = reader.overview().markers
    latest: tuple[int, int] | None = None
    named: dict[str, tuple[int, int]] = {}
    asked: list[tuple[int, tuple[int, int] | None]] = []
    for row in sorted(markers):
        question = QuestionAbout.find(markers[row])
        if question is not None:
            asked.append((row, question.span or named.get(question.name, latest)))
        for fact in Planted.find(markers[row]):
            latest = named[fact.name] = fact.start, fact.stop
    limits = [row for row, _ in asked[1:]] + [reader.num_rows]
    return [
        _until_raw(reader, row, limit, span)
        for (row, span), limit in zip(asked, limits, strict=False)
        if span is not None
    ]


def _until_raw(reader: TraceReader, first: int, stop: int, span: tuple[int, int]) -> dict[str, Any]:
    size = reader.meta.block_size
    result: dict[str, Any] = {"row": first, "start": span[0], "stop": span[1]}
    result |= {"refocuses": None, "tokens": None, "already": False}
    step = tokens = 0
    for row in _rows(reader, first):
        if row["row"] < first:
            continue
        if row["row"] == first:
            step, tokens = row["step"], row["history_tokens"]
            result |= {"step": step, "already": _is_raw(row["levels"], span, size)}
        if row["row"] >= stop:
            break
        if _is_raw(apply_actions(row["levels"], row["actions"], size), span, size):
            result["refocuses"] = row["step"] - step
            result["tokens"] = row["history_tokens"] - tokens
            break
    return result


def _is_raw(levels: np.ndarray, span: tuple[int, int], size: int) -> bool:
    starts = starts_of(levels, size)
    first = int(np.searchsorted(starts, span[0], side="right")) - 1
    stop = int(np.searchsorted(starts, span[1], side="left"))
    return bool((levels[first:stop] == 0).all())  # what lies in the tail is raw anyway


def metrics_of(reader: TraceReader) -> dict[str, Any]:
    """All metrics of a trace as one flat, JSON-able object; None where nothing was measured.

    ``damaged_rows`` are missing in the figures that need a column of theirs which is damaged.
    Shares are 0 to 1, times microseconds, NLL nats per token, residency times refocuses.
    """
    overview, series = reader.overview(), series_of(reader)
    focus = time_to_focus(reader)
    reached = [f["refocuses"] for f in focus if f["refocuses"] is not None]
    nodes = series.lod_nodes.sum(axis=0)
    voluntary = int(series.voluntary.sum())

    metrics: dict[str, Any] = {
        "rows": overview.num_rows,
        "damaged_rows": _damaged_rows(reader, overview.damaged),
        "refocuses": len(series.step),
        "history_tokens": int(overview.history_tokens[-1]) if overview.num_rows else 0,
        "w_max": int(overview.w_max[-1]) if overview.num_rows else reader.meta.w_max,
        "expands": int(series.expands.sum()),
        "collapses": int(series.collapses.sum()) - int(series.forced.sum()),
        "forced": int(series.forced.sum()),
        "swap_rate": _mean(series.swap_rate),
        "swap_rate_p95": _quantile(series.swap_rate, 0.95),
        "residency": _mean(series.residency),
        "residency_p05": _quantile(series.residency, 0.05),
        "residency_refocuses_mean": _mean(series.lifetimes),
        "residency_refocuses_p50": _quantile(series.lifetimes, 0.5),
        "raw_residency_refocuses_p50": _quantile(series.raw_lifetimes, 0.5),
        "utilization": _mean(series.utilization),
        "thrash": int(series.reversals.sum()) / voluntary if voluntary else 0.0,
        "questions": len(focus),
        "focused": len(reached),
        "time_to_focus_refocuses_p50": _quantile(np.array(reached), 0.5),
        "time_to_focus": focus,
        "scores_dropped": int(overview.scores_dropped[-1]) if overview.num_rows else 0,
        "kv_rows_per_refocus": float(overview.kv_rows.sum()) / max(len(series.step), 1),
        "kv_drift_mean": _mean(overview.kv_drift),
        "kv_drift_max": _quantile(overview.kv_drift, 1.0),
        "delta_nll": _mean(overview.delta_nll),
        "delta_nll_p95": _quantile(overview.delta_nll, 0.95),
    }

    # Levels that never occurred have no key.
    for level, count in enumerate(nodes.tolist()):
        if count:
            metrics[f"lod{level}_share"] = count / int(nodes.sum())
    metrics |= _nll(reader)
    for stage in _STAGES:
        times = getattr(overview, stage).astype(np.float64)
        times = times[times > 0]  # rows that did not have this stage say 0
        for name, fraction in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            metrics[f"{stage}_{name}"] = _quantile(times, fraction)
    return metrics


def _damaged_rows(reader: TraceReader, known: np.ndarray) -> int:
    """Rows of batches that ``known``, bool[n], or the columns read here call damaged."""
    broken = known.copy()
    batches = [(first, batch is None) for first, batch in reader.project((*_COLUMNS, *_SUMS))]
    ends = [first for first, _ in batches[1:]] + [reader.num_rows]
    for (first, unreadable), stop in zip(batches, ends, strict=False):
        broken[first:stop] |= unreadable
    return int(broken.sum())


def _nll(reader: TraceReader) -> dict[str, float | None]:
    sums = {Phase.INGEST: 0.0, Phase.DECODE: 0.0}
    counts = {Phase.INGEST: 0, Phase.DECODE: 0}
    for _, batch in reader.project(["phase", "new_nll", "history_tokens", "marker"]):
        if batch is None:
            continue
        flat, offsets = list_values(batch.column("new_nll"), "new_nll")
        phases = np.repeat(batch.column("phase").to_numpy(), np.diff(offsets))
        _split_rows(batch, offsets, phases)
        for phase in Phase:
            values = flat[phases == phase]
            values = values[~np.isnan(values)].astype(np.float64)
            sums[phase] += float(values.sum())
            counts[phase] += len(values)
    total = sum(counts.values())
    metrics = {"nll": sum(sums.values()) / total if total else None}
    for phase in Phase:
        mean = sums[phase] / counts[phase] if counts[phase] else None
        metrics[f"nll_{phase.name.lower()}"] = mean
    return metrics


def _split_rows(batch: pa.RecordBatch, offsets: np.ndarray, phases: np.ndarray) -> None:
    """Correct ``phases`` of a row's tokens where a marker says that its phase began inside it."""
    ends = batch.column("history_tokens").to_numpy()
    for row, marker in enumerate(batch.column("marker").to_pylist()):
        started = _PHASE_START.findall(marker) if marker else []
        if not started:
            continue
        first, last = int(offsets[row]), int(offsets[row + 1])
        start = int(ends[row]) - (last - first)
        names = {"ingest": Phase.INGEST, "decode": Phase.DECODE}
        cuts = [(first + int(at) - start, names[name]) for name, at in started]
        other = Phase.INGEST if cuts[0][1] is Phase.DECODE else Phase.DECODE
        phases[first : max(first, cuts[0][0])] = other
        for (cut, phase), (stop, _) in zip(cuts, [*cuts[1:], (last, None)], strict=True):
            phases[max(first, cut) : stop] = phase


def _mean(values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)] if len(values) else values
    return float(values.mean(dtype=np.float64)) if len(values) else None


def _quantile(values: np.ndarray, fraction: float) -> float | None:
    values = values[~np.isnan(values)] if len(values) else values
    return float(np.quantile(values, fraction)) if len(values) else None
