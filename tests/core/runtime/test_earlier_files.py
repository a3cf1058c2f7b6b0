"""A trace and a tree that an earlier version wrote open, verify and resume (tests/data/earlier)."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml
from recorded import rows_of

from megacontext.core.cli.app import app, guard
from megacontext.core.tree import Tree
from megacontext.core.verify import verify
from megacontext.traces.facts import Answered, Asked, Planted
from megacontext.traces.reader import TraceReader

DATA = Path(__file__).parents[2] / "data/earlier"
TOKENS, ROWS = 1161, 65


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The run's config and text, its trace and its tree."""
    for name in ("earlier.yaml", "text.txt"):
        shutil.copy(DATA / name, tmp_path)
    with tarfile.open(DATA / "files.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_earlier_trace_opens_with_its_facts_and_is_decided_again(folder, plain):
    trace = folder / "earlier.arrow"
    with TraceReader.open(trace) as reader:
        markers = "; ".join(row.marker for row in reader.rows() if row.marker)
        assert reader.num_rows == ROWS
    assert Planted.find(markers) == [Planted(500, 517, "archive")]
    assert Asked.find(markers) == [Asked(1117, 1137)]
    assert Answered.find(markers) == [Answered(1137, 1145)]
    result = verify(trace)
    assert result.ok
    assert result.rerun == ROWS
    assert plain.check_trace(trace) == ROWS


def test_an_earlier_tree_opens_and_verifies(folder):
    with Tree.open(folder / "earlier.tree", write=False) as tree:
        assert tree.n_tokens == TOKENS
        assert tree.n_nodes(1) == TOKENS // 32
        assert tree.verify() == []


@pytest.mark.parametrize("config", ["earlier.yaml", "earlier.arrow"])
def test_an_earlier_run_goes_on_from_its_config_or_its_trace(folder, config, capsys):
    before = rows_of(folder / "earlier.arrow")
    segments = yaml.safe_load((folder / "earlier.yaml").read_text())["source"]["segments"]
    longer = json.dumps([*segments, {"kind": "ingest", "tokens": 300}])
    settings = ["--set", f"source.segments={longer}", "--set", "threads=1"]
    paths = ["--config", config, "--tree", "earlier.tree", "--out", "earlier.arrow"]
    assert guard(app, ["run", *paths, *settings, "--resume", "--json"]) == 0

    summary = json.loads(capsys.readouterr().out)
    assert summary["metrics"]["history_tokens"] == TOKENS + 300
    after = rows_of(folder / "earlier.arrow")
    assert [row.new_tokens.tolist() for row in after[:ROWS]] == [
        row.new_tokens.tolist() for row in before
    ]
    assert verify(folder / "earlier.arrow").rerun == len(after) > ROWS
