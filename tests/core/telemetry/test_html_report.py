"""Pages beside Parquet files and training runs: means by group, curves, nothing from outside."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from megacontext.core.telemetry.html_report import Curve, group_means, write_curves, write_table

ROWS = [
    {"contender": "ours", "task": "a", "correct": True, "nll": 1.0},
    {"contender": "ours", "task": "b", "correct": False, "nll": 3.0},
    {"contender": "recency", "task": "a", "correct": False, "nll": None},
    {"contender": "recency", "task": "b", "correct": False, "nll": math.nan},
]


def test_rows_are_averaged_by_their_text_columns():
    rows = [{**row, "model": "demo", "id": f"task-{i:02d}"} for i, row in enumerate(ROWS * 10)]
    means = group_means([{k: v for k, v in row.items() if k != "task"} for row in rows])
    ours = {"contender": "ours", "rows": 20, "correct": 0.5, "nll": 2.0}
    assert means == [ours, {"contender": "recency", "rows": 20, "correct": 0.0, "nll": None}]


def test_a_page_has_every_group_and_asks_for_nothing_from_outside(tmp_path):
    path = tmp_path / "recall.html"
    write_table(path, "recall <&>", ROWS)
    text = path.read_text()
    assert "recall &lt;&amp;&gt;" in text
    assert text.count("<tr>") == 1 + 4
    assert "100.0%" in text
    assert not re.search(r"src=|href=|url\(|<script|@import", text)


def test_many_groups_are_cut_and_the_page_says_so(tmp_path):
    rows = [{"a": f"{i % 20}", "b": f"{i // 20}", "x": i} for i in range(400)]
    write_table(tmp_path / "many.html", "many", rows)
    text = (tmp_path / "many.html").read_text()
    assert "400 rows in 400 groups; the first 200 are shown" in text


def test_no_rows_make_a_page_too(tmp_path):
    write_table(tmp_path / "none.html", "none", [])
    assert "no rows" in (tmp_path / "none.html").read_text()


def test_curves_are_drawn_within_the_chart_and_gaps_left_out(tmp_path):
    curve = Curve("loss", [(1, 4.0), (2, math.nan), (3, 2.0), (4, 1.0)])
    single = Curve("eval", [(4, 1.0)])
    write_curves(tmp_path / "run.html", "run", [curve, single], {"score": 0.25})
    text = (tmp_path / "run.html").read_text()
    charts = re.findall(r"<svg.*?</svg>", text)
    assert len(charts) == 1
    root = ElementTree.fromstring(charts[0])
    points = [tuple(map(float, p.split(","))) for p in root.find("polyline").get("points").split()]
    assert len(points) == 3
    width, height = float(root.get("width")), float(root.get("height"))
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # a falling loss goes down
    assert "0.25" in text


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_a_flat_curve_is_a_line(tmp_path, value):
    write_curves(tmp_path / "flat.html", "flat", [Curve("loss", [(0, value), (1, value)])], {})
    assert "<polyline" in (tmp_path / "flat.html").read_text()
