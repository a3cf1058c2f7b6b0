"""What a resumed run may have otherwise than the run before it, and what is refused."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import yaml
from recorded import rows_of

from megacontext.core.config import dump_config, load_config, parse_config
from megacontext.core.runtime.observer import Observer
from megacontext.core.runtime.run import run
from megacontext.core.verify import verify
from megacontext.traces.errors import TraceError
from megacontext.traces.reader import TraceReader


@pytest.fixture
def begun(config_text, tmp_path):
    """The settings of a run that has read 200 tokens, and its trace."""
    text = config_text.replace("decode_tokens: 24", "decode_tokens: 0")
    trace = tmp_path / "t.arrow"
    run(parse_config(text, ["lens.kind=random", "source.max_tokens=200"]), trace, control=False)
    return text, trace


def resumed(text, trace, *settings):
    config = parse_config(text, ["lens.kind=random", "source.max_tokens=400", *settings])
    return run(config, trace, resume=True, control=False).trace


def test_a_resumed_run_may_read_on_with_other_threads_and_flushes(begun):
    text, trace = begun
    report = verify(resumed(text, trace, "threads=1", "trace.flush_rows=2"))
    assert report.ok
    assert report.rerun == report.rows
    with TraceReader.open(trace) as reader:
        assert reader.row(reader.num_rows - 1).history_tokens == 400


@pytest.mark.parametrize(
    ("setting", "key", "before"),
    [
        ("focus.n_diff=2", "focus.n_diff is 2", "4"),
        ("focus.question.reopen=false", "focus.question.reopen is False", "True"),
        ("w_max=120", "w_max is 120", "128"),
        ("lens.kind=recency", "lens.kind is recency", "random"),
        ("allocator.kind=slot", "allocator.kind is slot", "greedy"),
        ("seed=4", "seed is 4", "3"),
    ],
)
def test_a_resume_with_another_deciding_key_is_refused_and_costs_nothing(
    begun, setting, key, before
):
    text, trace = begun
    recorded = trace.read_bytes()
    said = f"{key} but the run in {trace} had {before}; resume with its own config"
    with pytest.raises(TraceError, match=re.escape(said)):
        resumed(text, trace, setting)
    assert trace.read_bytes() == recorded


def without_reopen(trace):
    """The same rows as a version recorded them that knew no ``focus.question.reopen``."""
    with TraceReader.open(trace) as reader:
        config = yaml.safe_load(reader.meta.config)
    del config["focus"]["question"]["reopen"]
    with pa.ipc.open_file(trace) as file:
        table = file.read_all()
    old = {**table.schema.metadata, b"mc.config": yaml.safe_dump(config).encode()}
    with pa.ipc.new_file(trace, table.schema.with_metadata(old)) as file:
        file.write_table(table)


def test_a_trace_older_than_a_key_goes_on_by_its_own_config_alone(begun):
    text, trace = begun
    config = parse_config(text, ["lens.kind=random", "source.max_tokens=200"])
    assert "reopen: true" in dump_config(config)
    without_reopen(trace)
    with pytest.raises(TraceError, match=r"reopen is True but the run in .* had False"):
        resumed(text, trace)
    again = load_config(trace, ["source.max_tokens=400"])
    run(again, trace, resume=True, control=False)
    assert verify(trace).ok


def test_a_new_run_over_a_tree_with_a_history_says_that_it_goes_on_behind_it(config_text, tmp_path):
    settings = [f"tree.path={tmp_path / 'tree'}", "tree.storage=disk", "source.max_tokens=80"]
    config, notes = parse_config(config_text, settings), {0: [], 1: []}
    for number in range(2):
        run(config, tmp_path / f"{number}.arrow", control=False, on_notes=notes[number].extend)
    first, second = (" ".join(notes[number]) for number in range(2))
    assert "goes on behind" not in first
    assert "holds 104 tokens already and this run goes on behind them" in second
    with TraceReader.open(tmp_path / "1.arrow") as reader:
        assert reader.row(reader.num_rows - 1).history_tokens == 208


def test_a_trace_without_a_row_does_not_go_on_over_a_tree_with_tokens(config_text, tmp_path):
    settings = [f"tree.path={tmp_path / 'tree'}", "tree.storage=disk", "source.max_tokens=80"]
    config, empty = parse_config(config_text, settings), tmp_path / "empty.arrow"
    whole = run(config, tmp_path / "whole.arrow", control=False).trace
    with TraceReader.open(whole) as reader, pa.ipc.new_file(empty, reader.schema):
        pass
    with pytest.raises(TraceError, match="no whole refocus yet, and the tree holds 104 tokens"):
        run(config, empty, resume=True, control=False)


def test_weights_of_another_version_of_the_bundle_end_a_resume(begun, monkeypatch):
    text, trace = begun
    here = "megacontext.core.runtime."
    for module, found in (("run", "old"), ("resume", "old")):
        monkeypatch.setattr(f"{here}{module}.weights_id", lambda config, found=found: found)
    resumed(text, trace)  # the first run knew no weights: it is taken as it is
    with TraceReader.open(trace) as reader:
        assert reader.meta.extra["mc.weights"] == "old"
    monkeypatch.setattr(f"{here}resume.weights_id", lambda config: "new")
    with pytest.raises(TraceError, match=r"weights are new now but were old .* start a new run"):
        resumed(text, trace)


def test_a_resumed_run_in_exact_mode_is_the_unbroken_one(config_text, tmp_path, monkeypatch):
    text = config_text.replace("decode_tokens: 24", "decode_tokens: 0")
    settings = ["lens.kind=attention", "kv={mode: exact}"]
    seen, observe = [], Observer.observe

    def noted(self, step, number):
        observation = observe(self, step, number)
        seen.append((step, number, observation.surprisal.copy()))
        return observation

    monkeypatch.setattr(Observer, "observe", noted)

    def read(name, tokens, resume=False):
        seen.clear()
        config = parse_config(text, [*settings, f"source.max_tokens={tokens}"])
        out = run(config, tmp_path / name, resume=resume, control=False).trace
        return rows_of(out), {(step, number): nll for step, number, nll in seen}

    whole, unbroken = read("whole.arrow", 400)
    read("cut.arrow", 200)
    rows, resumed = read("cut.arrow", 400, resume=True)

    # The same decisions, and what they were made from; the sums of a forward differ by its shape.
    assert [row.actions.tobytes() for row in rows] == [row.actions.tobytes() for row in whole]
    nll = [np.concatenate([row.new_nll for row in each]) for each in (rows, whole)]
    np.testing.assert_allclose(*nll, atol=1e-4)
    assert len(resumed) > 20
    for at, surprisal in resumed.items():
        np.testing.assert_allclose(surprisal, unbroken[at], atol=1e-4)
