"""Where training metrics go: CSV, Arrow and a page of curves always, other sinks when asked for."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from megacontext.core.telemetry.html_report import Curve, write_curves
from megacontext.core.telemetry.sinks import MetricSink

__all__ = ["Metrics"]

Row = Mapping[str, float | int | str]


class Metrics:
    """``metrics.csv`` (appended, readable while training); at the end ``metrics.arrow`` and
    ``metrics.html``.

    The columns are fixed by ``columns``; a row may leave some out. A resumed run keeps the rows
    up to its step and drops later ones, so the curve has no doubles.

    Args:
        step: where a resumed run goes on; 0 for a new one.
        evaluated: whether that step's evaluation is done; if not, its row (the one without a loss)
            is dropped as well, for it will come again.
    """

    def __init__(
        self,
        folder: Path,
        columns: Sequence[str],
        sinks: Sequence[MetricSink] = (),
        step: int = 0,
        evaluated: bool = True,
    ) -> None:
        self._columns = ("step", *columns)
        self._path = folder / "metrics.csv"
        self._sinks = list(sinks)
        folder.mkdir(parents=True, exist_ok=True)
        self._rows: list[dict[str, str]] = []
        if self._path.is_file() and step > 0:
            with self._path.open(encoding="utf8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
            done = [row for row in rows if evaluated or int(row["step"]) < step or row["loss"]]
            self._rows = done
        # Replaced whole: a kill here leaves the curve that was.
        partial = self._path.with_suffix(".tmp")
        with partial.open("w", encoding="utf8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self._rows)
        partial.replace(self._path)

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
        write_curves(self._path.with_suffix(".html"), self._path.parent.name, *self._curves())
        for sink in self._sinks:
            sink.close()

    def _curves(self) -> tuple[list[Curve], dict[str, float]]:
        """(each column over the steps, its last value)."""
        curves, final = [], {}
        for column in self._columns[1:]:
            points = [
                (float(row["step"]), float(row[column])) for row in self._rows if row.get(column)
            ]
            curves.append(Curve(column, points))
            if points:
                final[column] = points[-1][1]
        return curves, final


def _text(value: float | int | str) -> str:
    return format(value, ".6g") if isinstance(value, float) else str(value)
