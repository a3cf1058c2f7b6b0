"""``audit.md`` names tests that exist, and every test of the trial stands in it."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
TABLE = (FOLDER / "audit.md").read_text()


def defined_in(path: Path) -> set[str]:
    """Names of the tests in a file."""
    return set(re.findall(r"(?m)^(?:async )?def (test_\w+)", path.read_text()))


def test_every_test_in_the_table_exists() -> None:
    named = re.findall(r"`([\w/.]+\.py)::(\w+)`", TABLE)
    assert len(named) > 40
    missing = [
        (file, test)
        for file, test in named
        if test not in defined_in((ROOT if "/" in file else FOLDER) / file)
    ]
    assert missing == []


def test_every_test_of_the_trial_is_in_the_table() -> None:
    made = {test for path in FOLDER.glob("test_audit_*.py") for test in defined_in(path)}
    made -= defined_in(Path(__file__))
    assert len(made) > 30
    assert {test for test in made if f"::{test}`" not in TABLE} == set()


def test_each_numbered_defect_has_a_line() -> None:
    assert re.findall(r"(?m)^\| D(\d+) ", TABLE) == [str(n) for n in range(1, 17)]
