"""``megacontext sim``: one JSON object on stdout, one sentence for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacontext.core.cli.app import app as root
from megacontext.core.cli.app import guard
from megacontext.simulator.cli import app, fuzz_command
from megacontext.simulator.config import WorldConfig
from megacontext.simulator.failures import Failure, load_failure, shrink_failure
from megacontext.traces.reader import TraceReader


def sim(*arguments: str) -> int:
    return guard(app, list(arguments))


def test_run_records_a_trace_and_prints_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "t.arrow")
    arguments = ["--stream", "needle", "--lens", "noisy", "--allocator", "greedy", "--seed", "7"]
    assert sim("run", *arguments, "--out", out, "--blocks", "40", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 40
    with TraceReader.open(Path(out)) as reader:
        assert reader.num_rows == found["rounds"]
    assert guard(root, ["trace", "verify", out]) == 0


def test_fuzz_prints_what_programs_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("fuzz", "--minutes", "1", "--worlds", "3", "--seed", "5", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"steps_per_s", "worlds", "failures", "sometimes"} <= found.keys()
    assert found["worlds"] == 3
    assert found["failures"] == 0


def test_replay_of_a_sound_list_is_quiet_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Failure(WorldConfig(), [["append", 8], ["refocus"]], "budget", "m").save(tmp_path)
    assert sim("replay", str(path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["fails"] is False


def test_replay_of_a_failure_fails_in_the_same_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megacontext.core.focus.hysteresis.Memory.cooling", lambda *_: None)
    monkeypatch.setattr(
        "megacontext.core.focus.hysteresis.Memory.disarmed_or_none", lambda *_: None
    )
    assert sim("fuzz", "--minutes", "1", "--save", str(tmp_path), "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["failures"] == 1
    file = found["saved"][0]["file"]
    assert sim("replay", file, "--json") == 1
    again = json.loads(capsys.readouterr().out)
    assert again["same"]
    assert again["operations"] <= 20


def test_a_failure_is_saved_before_it_is_shrunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> Failure:
        raise KeyboardInterrupt

    monkeypatch.setattr("megacontext.core.focus.hysteresis.Memory.cooling", lambda *_: None)
    monkeypatch.setattr(
        "megacontext.core.focus.hysteresis.Memory.disarmed_or_none", lambda *_: None
    )
    monkeypatch.setattr("megacontext.simulator.cli.shrink_failure", killed)
    with pytest.raises(KeyboardInterrupt):
        fuzz_command(minutes=1, seed=0, worlds=None, save=tmp_path, as_json=True)
    (file,) = tmp_path.iterdir()
    assert load_failure(file).operations


def test_shrinking_says_how_far_it_is() -> None:
    failure = Failure(WorldConfig(), [["append", 8], ["refocus"]], "budget", "m")
    said: list[tuple[int, int]] = []
    assert shrink_failure(failure, progress=lambda *now: said.append(now)) == failure
    assert said == [(1, 2)]  # it does not fail, so there is nothing to shrink


def test_oracle_prints_the_interval(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--stream", "scan", "--lens", "oracle", "--allocator", "greedy"]
    assert sim("oracle", *arguments, "--blocks", "30", "--json") == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert {run["lens"] for run in runs} == {"oracle", "random", "recency", "lru", "static"}
    assert all(0 <= run["regret_low"] <= run["regret_high"] + 1e-9 for run in runs)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--stream", "nedle"], "stream 'nedle' is unknown; did you mean 'needle'"),
        (["run", "--lens", "x"], "lens 'x' is unknown"),
        (["run", "--w-max", "10"], "w_max is 10"),
        (["run", "--seed", "seven"], "seven"),
        (["run", "--stream", "recorded"], "--recording"),
        (["replay", "no-such-file.json"], "cannot be read"),
        (["oracle", "--stream", "x"], "stream 'x' is unknown"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim(*arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_run_that_does_not_fit_says_where_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["run", "--block-size", "4", "--levels", "1", "--w-max", "40", "--blocks", "60"]
    assert sim(*small, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clipped_tokens"] == 240 - found["tokens"] > 0
    assert sim(*small) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert f"ends at {found['tokens']} of 240 tokens: more does not fit 1 levels" in told


def test_a_failure_is_told_with_its_traceback_and_a_test_that_runs_as_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("megacontext.core.tree.buffer.RamRows.rollback", lambda *_: None)
    config = WorldConfig(block_size=4, w_max=64, n_diff=7)
    path = Failure(
        config, [["append", 8], ["fault", "gist_failure", 1, 0], ["append", 8]], "tree", ""
    ).save(tmp_path)
    assert sim("replay", str(path)) == 1
    told = capsys.readouterr().out
    assert "Traceback (most recent call last)" in told
    assert "_same_length" in told
    snippet = told[told.index("from megacontext") :]
    assert "n_diff=7" in snippet
    pasted: dict[str, object] = {}
    exec(snippet, pasted)  # noqa: S102
    test = next(value for name, value in pasted.items() if name.startswith("test_"))
    with pytest.raises(Exception, match="tokens instead of"):
        test()  # type: ignore[operator]


def test_shrinking_leaves_only_the_settings_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megacontext.core.tree.buffer.RamRows.rollback", lambda *_: None)
    config = WorldConfig(n_diff=7, cooldown_steps=9, dtype="bf16", features={"append": 3})
    life = [["append", 8], ["refocus"], ["fault", "gist_failure", 1, 0], ["append", 8]]
    saved = Failure(config, life, "tree", "")
    short = shrink_failure(saved)
    assert short.config == WorldConfig(stream="uniform", lens="static")
    assert [operation[0] for operation in short.operations] == ["fault", "append"]
    assert "n_diff" not in short.snippet()


def test_a_world_replaces_a_trace_only_with_overwrite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.arrow"
    assert sim("run", "--out", str(out), "--blocks", "4", "--json") == 0
    before = out.read_bytes()
    capsys.readouterr()
    assert sim("run", "--out", str(out), "--blocks", "6", "--json") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert sim("run", "--out", str(out), "--blocks", "6", "--json", "--overwrite") == 0
    assert out.read_bytes() != before
