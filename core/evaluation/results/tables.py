"""Results as tables: rows of texts for people, Parquet for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from megacontext.core.telemetry.html_report import write_table
from megacontext.traces.errors import StorageError

if TYPE_CHECKING:  # tables need no model
    from megacontext.core.evaluation.tasks.nll_metrics import NLLSummary
    from megacontext.core.evaluation.tasks.recall import RecallSummary

__all__ = ["markdown", "nll_table", "percent", "recall_table", "write_parquet", "write_results"]

Table = list[dict[str, str]]
"""Rows of a table by column."""


def percent(value: float | None, interval: Sequence[float] | None = None) -> str:
    """A fraction in percent with its interval."""
    if value is None:
        return "–"
    interval_text = "" if interval is None else f" [{interval[0]:.0%}, {interval[1]:.0%}]"
    return f"{value:.1%}{interval_text}"


def three_digits(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "–"
    interval_text = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    return f"{value:.3f}{interval_text}"


def recall_table(summaries: Mapping[str, RecallSummary]) -> Table:
    """One row per contender, one column per length of history where lengths are known."""
    rows: Table = []
    for name, summary in summaries.items():
        overall = summary.overall
        row = {"contender": name, "accuracy": percent(overall.accuracy, overall.interval)}
        if len(summary.by_times) > 1:
            for times, metrics in summary.by_times.items():
                row[f"{times}×"] = percent(metrics.accuracy, metrics.interval)
        row["gold expanded"] = percent(overall.gold_expanded, overall.gold_interval)
        row["refocuses"] = "–" if overall.refocuses is None else f"{overall.refocuses:.2f}"
        row["tasks"] = str(overall.count)
        rows.append(row)

    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column, "–") for column in columns} for row in rows]


def nll_table(summaries: Mapping[str, NLLSummary]) -> Table:
    """One row per budget and contender."""
    rows: Table = []
    for w_max in next(iter(summaries.values())).by_w_max:
        for name, summary in summaries.items():
            metrics = summary.by_w_max[w_max].overall
            gain, gain_interval = metrics.recovered_gain, metrics.recovered_gain_interval
            rows.append(
                {
                    "W_max": str(w_max),
                    "contender": name,
                    "ΔNLL": three_digits(metrics.delta_nll, metrics.interval),
                    "p95": three_digits(metrics.delta_nll_p95),
                    "recovered gain": three_digits(gain, gain_interval),
                    "windows": str(metrics.count),
                    "texts": str(metrics.documents),
                }
            )
    return rows


def markdown(rows: Table) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(c.replace("|", "\\|") for c in r.values()) + " |" for r in rows]
    return "\n".join(lines) + "\n"


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One Parquet file, replaced as a whole, and a page of its means; nested values become JSON.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    columns = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({c: pa.array([_plain(row.get(c)) for row in rows]) for c in columns})
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, part)
        os.replace(part, path)  # noqa: PTH105
        write_table(path.with_suffix(".html"), path.stem, rows)
    except OSError as error:
        raise StorageError(_unwritten(path, error)) from error


def _unwritten(path: Path, error: OSError) -> str:
    return (
        f"{path} cannot be written ({error.strerror or error}); free space or name another folder "
        "with --out, and run again."
    )


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list, tuple)) else value


def write_results(folder: Path, name: str, results: Iterable[Any], table: Table) -> None:
    """Every single result (dataclasses) and the table, in ``folder``.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_parquet(folder / f"{name}.parquet", [asdict(result) for result in results])
    try:
        (folder / f"{name}.md").write_text(markdown(table), encoding="utf-8")
    except OSError as error:
        raise StorageError(_unwritten(folder, error)) from error
