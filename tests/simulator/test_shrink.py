"""Shrinking, and failures as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacontext.simulator import failures
from megacontext.simulator.config import WorldConfig
from megacontext.simulator.failures import Failure, load_failure
from megacontext.simulator.operations import check_operations, simpler
from megacontext.simulator.shrink import ddmin, shrink
from megacontext.traces.errors import ConfigError


def test_ddmin_finds_the_two_that_matter() -> None:
    assert ddmin(list(range(100)), lambda items: {17, 63} <= set(items)) == [17, 63]


def test_shrinking_makes_arguments_small_too() -> None:
    def fails(operations: list[list[int | str]]) -> bool:
        return any(op[0] == "append" and int(op[1]) >= 5 for op in operations)

    long: list[list[int | str]] = [["refocus"], ["append", 40], ["commit"], ["append", 3]]
    assert shrink(long, fails, simpler) == [["append", 5]]


def test_a_failure_survives_its_file(tmp_path: Path) -> None:
    config = WorldConfig(seed=4, faults=("kill",), storage="disk")
    saved = Failure(config, [["append", 3], ["fault", "kill", 1, 2]], "budget", "1 over", "abc")
    assert load_failure(saved.save(tmp_path)) == saved


def test_the_snippet_is_python_that_names_every_operation() -> None:
    saved = Failure(WorldConfig(seed=4), [["append", 3], ["refocus"]], "budget", "1 over")
    compile(saved.snippet(), "snippet", "exec")
    assert '["append", 3]' in saved.snippet()
    assert "seed=4" in saved.snippet()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw.pop("operations"), "no field 'operations'"),
        (lambda raw: raw.update(version=9), "version 1"),
        (lambda raw: raw["operations"].append(["jump"]), "operation 1 is ['jump']"),
        (lambda raw: raw["operations"].append(["append", "x"]), "it takes int"),
        (lambda raw: raw["operations"].append(["append", -1]), ">= 0"),
        (lambda raw: raw["config"].update(colour=1), "Unknown key colour "),
        (lambda raw: raw["config"].update(block_size=7), "block_size is 7"),
        (lambda raw: raw["config"].update(w_max="many"), "w_max is 'many'"),
    ],
)
def test_a_damaged_file_is_refused_with_one_sentence(damage, said, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = Failure(WorldConfig(), [["refocus"]], "budget", "m").save(tmp_path)
    raw = json.loads(path.read_text())
    damage(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(ConfigError) as caught:
        load_failure(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_json_or_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ConfigError, match="is no JSON"):
        load_failure(tmp_path / "x.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_failure(tmp_path / "y.json")


def test_operations_must_be_a_list() -> None:
    with pytest.raises(ConfigError, match="no list"):
        check_operations({"append": 1})


def test_a_failure_that_comes_and_goes_is_kept_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = Failure(WorldConfig(), [["append", 3], ["refocus"]], "budget", "1 over")
    tries = iter([failure] * 3)
    monkeypatch.setattr(failures, "attempt", lambda config, operations: next(tries, None))
    assert failures.shrink_failure(failure) == failure
