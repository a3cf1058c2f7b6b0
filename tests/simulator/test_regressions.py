"""Saved failures: each list of operations once broke an invariant and must not do so again."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacontext.simulator.failures import attempt, load_failure

FOLDER = Path(__file__).parents[1] / "regressions"

OPEN = {
    "killed-before-slot-sync": (
        "core/tree/ctxfile.py: a process killed between the write and the sync of a header slot "
        "leaves the slot in the page cache; the next process adopts it, calls its tokens committed "
        "(commit() returns at once because count equals header.count) and a power cut loses them; "
        "open, or the first commit after it, has to datasync the file"
    ),
}
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
