"""Saved failures: each list of operations once broke an invariant and must not do so again."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacontext.simulator.failures import attempt, load_failure

FOLDER = Path(__file__).parents[1] / "regressions"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_saved_failure_does_not_come_back(path: Path) -> None:
    saved = load_failure(path)
    again = attempt(saved.config, saved.operations)
    assert again is None, f"{again.kind}: {again.message}"
