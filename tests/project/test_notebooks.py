"""The notebook that teaches runs from top to bottom, and is stored without outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(ROOT.glob("docs/*.ipynb"))


def _text(notebook):
    """What the notebook printed."""
    outputs = (out for cell in notebook.cells for out in cell.get("outputs", ()))
    return "".join(out["text"] for out in outputs if out["output_type"] == "stream")


def test_there_is_a_notebook():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_guide_runs_and_finds_the_planted_fact(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / ".links")]))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(ROOT / "docs/guide.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    printed = _text(notebook)
    assert "answer: 48213" in printed
    assert "defaults         48213" in printed
    assert "gistnet " in printed
    assert "lensnet " in printed
