"""Saved failures: each list of operations once broke an invariant and must not do so again."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacontext.simulator.failures import attempt, load_failure

FOLDER = Path(__file__).parents[1] / "regressions"

OPEN: dict[str, str] = {}
"""Failures that still fail, with what is wrong; strict, so a fix shows at once."""


def _cases() -> list[object]:
    return [
        pytest.param(
            path,
            id=path.stem,
            marks=[pytest.mark.xfail(strict=True, reason=OPEN[path.stem])]
            if path.stem in OPEN
            else [],
        )
        for path in sorted(FOLDER.glob("*.json"))
    ]


@pytest.mark.parametrize("path", _cases())
def test_a_saved_failure_does_not_come_back(path: Path) -> None:
    saved = load_failure(path)
    again = attempt(saved.config, saved.operations)
    assert again is None, f"{again.kind}: {again.message}"
