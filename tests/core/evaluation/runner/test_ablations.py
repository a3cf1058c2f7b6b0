"""Ablations and the page of results."""

import json

import pyarrow.parquet as pq
import pytest

from megacontext.core.cli.app import app, guard
from megacontext.core.evaluation.results.metrics import Metric
from megacontext.core.evaluation.results.provenance import About
from megacontext.core.evaluation.results.report import page, targets_table
from megacontext.traces.errors import SourceError


def call(capsys, *arguments):
    code = guard(app, ["eval", *(str(a) for a in arguments)])
    return code, capsys.readouterr()


@pytest.fixture
def plan(tmp_path, config_text):
    hay = tmp_path / "hay.jsonl"
    hay.write_text(json.dumps({"doc": "hay", "domain": "code", "text": "Plain old hay. " * 900}))
    path = tmp_path / "plan.yaml"
    run = "".join(f"  {line}\n" for line in config_text.strip().splitlines())
    path.write_text(
        f"run:\n{run}"
        "quick: {samples: 1, per_history: 1, times: 16, documents: 1, lead: 2}\n"
        "tables:\n"
        "  Positions:\n    packed: []\n    gap: [kv.positions=gap]\n"
        "  Lenses:\n    similarity: []\n    lensnet: [lens.kind=lensnet]\n"
    )
    return path, hay


def test_variants_stand_in_their_tables_and_missing_parts_are_noted(capsys, plan, tmp_path):
    path, hay = plan
    out = tmp_path / "out"
    arguments = ("ablate", "--plan", path, "--text", hay, "--out", out, "--quick")
    code, said = call(capsys, *arguments, "--set", "nope=1")
    assert (code, "Unknown key nope" in said.err) == (2, True)
    code, said = call(capsys, *arguments, "--set", "seed=4")
    assert code == 0
    assert "note: Lenses, lensnet was left out" in said.err
    rows = pq.read_table(out / "ablations.parquet").to_pylist()
    result = {(row["group"], row["contender"]) for row in rows}
    assert result == {("Positions", "packed"), ("Positions", "gap"), ("Lenses", "similarity")}
    measures = {row["measure"] for row in rows}
    assert {"recall", "gold expanded", "ΔNLL@64"} <= measures
    above = [row for row in rows if row["measure"] == "NLL above the first row"]
    assert [(row["group"], row["contender"]) for row in above] == [("Positions", "gap")]
    nll = {r["contender"]: r["value"] for r in rows if r["measure"] == "ΔNLL@64"}
    assert above[0]["value"] == pytest.approx(nll["gap"] - nll["packed"])
    same = [
        [row["value"] for row in rows if (row["group"], row["contender"]) == key]
        for key in (("Positions", "packed"), ("Lenses", "similarity"))
    ]
    assert same[0] == same[1]

    results = tmp_path / "results.md"
    code, _ = call(capsys, "report", out, "--out", results)
    assert code == 0
    text = results.read_text()
    assert "### Positions" in text
    assert "| packed |" in text
    assert "lensnet was left out" in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("run: {}", "has no 'tables'"),
        ("tables: {a: {b: [nope=1]}}", "Unknown key nope"),
        ("tables: {a: []}", "tables.a"),
        ("tables: {a: {b: 3}}", "tables.a.b"),
        ("tables: {a: {b: []}}\nmore: 1", "Unknown key more "),
        ("tables: {a: {b: []}}\nquick: {nope: 1}", "quick.nope"),
        (": :", "not valid YAML at line 1"),
    ],
)
def test_bad_plans_are_one_sentence(capsys, tmp_path, text, says):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    code, said = call(capsys, "ablate", "--plan", path, "--out", tmp_path / "out")
    assert code == 2
    assert says in said.err
    assert len(said.err.splitlines()) == 1


def test_a_missed_target_says_so():
    met = Metric("recall", "history", "16×", "ours", 0.96, 0.9, 0.99, 100, "≥ 95%", True)
    missed = Metric("recall", "history", "64×", "ours", 0.5, 0.4, 0.6, 100, "≥ 90%", False)
    plain = Metric("recall", "history", "4×", "ours", 0.5, 0.4, 0.6, 100)
    table = targets_table([met, missed, plain])
    assert [row[""] for row in table] == ["met", "**missed**"]
    assert table[1]["ours"] == "50% [40%, 60%]"


def test_a_page_needs_evaluations(tmp_path):
    with pytest.raises(SourceError, match=r"about\.json"):
        page([tmp_path])
    About("suite", "c", "", "w", "m", 1, "d", 60.0, ()).write(tmp_path)
    assert About.read(tmp_path).seconds == 60.0
    with pytest.raises(SourceError, match=r"suite\.parquet"):
        page([tmp_path])
