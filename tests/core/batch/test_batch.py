"""Batch runs: the product, resuming, failures that cost only themselves."""

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from megacontext.core.batch.engines import run_local
from megacontext.core.batch.job import JobResult, is_finished, run_job
from megacontext.core.batch.plan import load_plan
from megacontext.core.batch.run import run_batch
from megacontext.core.cli.app import app, guard
from megacontext.core.config import parse_config
from megacontext.traces.files import OS_FILES
from megacontext.traces.reader import TraceReader


def inline(jobs, workers):
    return map(run_job, jobs)


@pytest.fixture
def here(monkeypatch):
    """Jobs run in this process: a spawned one takes seconds to import torch."""
    monkeypatch.setitem(run_batch.__globals__["ENGINES"], "local", inline)


def call(capsys, *arguments):
    code = guard(app, ["batch", *(str(a) for a in arguments)])
    return code, capsys.readouterr()


def test_jobs_are_the_product_and_their_configs_are_resolved(batch_file):
    plan = load_plan(batch_file)
    assert [job.name for job in plan.jobs] == [
        "tiny-plain-a-s4",
        "tiny-plain-b-s4",
        "tiny-random-a-s4",
        "tiny-random-b-s4",
    ]
    configs = [parse_config(job.config) for job in plan.jobs]
    assert [c.lens.kind for c in configs] == ["recency", "recency", "random", "random"]
    assert [c.source.max_tokens for c in configs] == [300, 200, 300, 200]
    assert {c.seed for c in configs} == {4}
    assert {c.threads for c in configs} == {1}
    assert configs[2].focus.n_diff == 8


def test_a_batch_leaves_traces_and_one_table(here, batch_file):
    plan = load_plan(batch_file)
    seen = []
    report = run_batch(plan, progress=lambda done, total: seen.append((done, total)))
    assert report.failed == {}
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    table = pq.read_table(report.parquet).to_pylist()
    assert "<table>" in report.parquet.with_suffix(".html").read_text()
    assert [row["job"] for row in table] == [job.name for job in plan.jobs]
    assert [row["history_tokens"] for row in table] == [304, 200, 304, 200]
    assert {row["status"] for row in table} == {"done"}
    for job in plan.jobs:
        with TraceReader.open(job.trace) as reader:
            assert reader.finished
    assert not list(plan.out.glob("**/*.part*"))


def test_a_batch_goes_on_where_it_was(here, batch_file, monkeypatch):
    plan = load_plan(batch_file)
    stop_after = iter([None, None])

    def killed(jobs, workers):
        for job, _ in zip(jobs, stop_after, strict=False):
            yield run_job(job)
        raise KeyboardInterrupt

    engines = run_batch.__globals__["ENGINES"]
    monkeypatch.setitem(engines, "local", killed)
    with pytest.raises(KeyboardInterrupt):
        run_batch(plan)
    assert pq.read_table(plan.out / "metrics.parquet").num_rows == 2
    written = {job.name: job.trace.stat().st_mtime_ns for job in plan.jobs[:2]}
    ran = []
    monkeypatch.setitem(engines, "local", lambda jobs, _: map(run_job, ran.extend(jobs) or jobs))
    report = run_batch(plan)
    assert report.resumed == 2
    assert [job.name for job in ran] == [job.name for job in plan.jobs[2:]]
    assert {job.name: job.trace.stat().st_mtime_ns for job in plan.jobs[:2]} == written
    assert pq.read_table(report.parquet).num_rows == 4


def test_only_a_whole_trace_of_the_same_config_counts_as_finished(batch_file):
    job = load_plan(batch_file).jobs[1]
    assert not is_finished(job)
    assert run_job(job) == JobResult(job.name, "")
    assert is_finished(job)
    other = dataclasses.replace(job, config=job.config.replace("seed: 4", "seed: 5"))
    assert not is_finished(other)
    whole = job.trace.read_bytes()
    job.trace.write_bytes(whole[: len(whole) // 2])
    assert not is_finished(job)
    job.trace.write_bytes(b"no trace")
    assert not is_finished(job)


def test_an_auto_kind_counts_while_it_would_come_to_the_same(batch_file, monkeypatch):
    job = load_plan(batch_file).jobs[1]
    auto = job.config.replace("kind: recency", "kind: auto").replace("kind: mean", "kind: auto")
    job = dataclasses.replace(job, config=auto)
    assert run_job(job).error == ""
    assert is_finished(job)
    monkeypatch.setattr("megacontext.core.batch.job.resolve_kinds", lambda config: config)
    assert not is_finished(job)


def test_a_trace_of_other_bundled_weights_is_run_again(batch_file, monkeypatch):
    job = load_plan(batch_file).jobs[1]
    assert run_job(job).error == ""
    assert is_finished(job)
    monkeypatch.setattr("megacontext.core.batch.job.weights_id", lambda config: "newer")
    assert not is_finished(job)


def test_two_batches_never_write_the_same_folder(here, capsys, batch_file):
    plan = load_plan(batch_file)
    plan.out.mkdir()
    lock = OS_FILES.lock(plan.out / ".lock")
    code, said = call(capsys, "--config", batch_file)
    assert (code, "is being written by another process" in said.err) == (2, True)
    lock.release()
    assert call(capsys, "--config", batch_file)[0] == 0


def test_an_out_that_is_no_folder_is_one_sentence(here, capsys, batch_file, tmp_path):
    (tmp_path / "taken").write_text("")
    code, said = call(capsys, "--config", batch_file, "--out", tmp_path / "taken")
    assert (code, said.err.count("\n")) == (2, 1)
    assert "--out" in said.err


def test_a_failed_job_is_listed_and_costs_only_itself(here, capsys, batch_file, tmp_path):
    (tmp_path / "a.txt").unlink()
    code, said = call(capsys, "--config", batch_file, "--json")
    assert code == 1
    report = json.loads(said.out)
    assert list(report["failed"]) == ["tiny-plain-a-s4", "tiny-random-a-s4"]
    assert "a.txt" in report["failed"]["tiny-plain-a-s4"]
    assert [row["status"] for row in report["rows"]] == ["failed", "done", "failed", "done"]
    code, said = call(capsys, "--config", batch_file)
    assert code == 1
    assert "2 finished before" in said.out
    assert said.out.count("failed: ") == 2


def test_the_same_batch_gives_the_same_rows(here, batch_file, tmp_path):
    reports = [run_batch(load_plan(batch_file, tmp_path / name)) for name in ("x", "y")]
    for one, other in zip(*(report.rows for report in reports), strict=True):
        assert one["trace"] != other["trace"]
        assert {k: v for k, v in one.items() if not k.startswith(("us_", "trace"))} == {
            k: v for k, v in other.items() if not k.startswith(("us_", "trace"))
        }


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("configs: [tiny.yaml]", "configs: []", "configs is empty"),
        ("configs: [tiny.yaml]", "configs: [tiny.yaml, tiny.yaml]", "two jobs are called"),
        ("configs: [tiny.yaml]", "configs: [none.yaml]", "none.yaml does not exist"),
        ("seeds: [4]", "seeds: [x]", "seeds.0 is 'x'"),
        ("seeds: [4]", "seed: 4", "Unknown key seed "),
        ("lens.kind=random", "lens.kind=nope", "job tiny-random-a-s4"),
        ("lens.kind=random", "tree.storage=disk, tree.path=x", "set it to ram"),
        ("kind: text", "kind: nope", "source.kind is 'nope'"),
        ("configs:", "configs: {", "not valid YAML"),
        ("random: [", "a/b: [", "overrides has the name 'a/b'"),
    ],
)
def test_a_bad_batch_file_is_one_sentence(capsys, batch_file, old, new, says):
    batch_file.write_text(batch_file.read_text().replace(old, new))
    code, said = call(capsys, "--config", batch_file)
    assert (code, said.out) == (2, "")
    assert says in said.err
    assert said.err.count("\n") == 1


def test_unknown_engines_and_a_missing_file_are_refused(capsys, batch_file, tmp_path):
    assert "--engine is 'nope'" in call(capsys, "--config", batch_file, "--engine", "nope")[1].err
    code, said = call(capsys, "--config", tmp_path / "none.yaml")
    assert (code, "none.yaml does not exist" in said.err) == (2, True)


@pytest.mark.slow
def test_worker_processes_do_what_one_process_does(batch_file, tmp_path, here):
    expected = run_batch(load_plan(batch_file, tmp_path / "x")).rows
    plan = load_plan(batch_file, tmp_path / "y")
    assert {r.error for r in run_local(plan.jobs, 2)} == {""}
    result = run_batch(plan)
    assert result.resumed == 4
    for one, other in zip(expected, result.rows, strict=True):
        assert one["nll"] == other["nll"]


def test_the_example_batch_is_legal():
    plan = load_plan(Path(__file__).parents[3] / "configs" / "batch" / "lenses.yaml")
    assert len(plan.jobs) == 16


def test_a_full_disk_is_told_with_what_to_do_about_it(batch_file, here, capsys):
    out = batch_file.parent / "out"
    out.mkdir()
    (out / "metrics.parquet.part").symlink_to("/dev/full")
    code, said = call(capsys, "--config", batch_file)
    assert code == 2
    (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert str(out / "metrics.parquet") in error
    assert "No space left on device" in error
    assert error.endswith("free space or name another folder with --out, and run again.")


def test_a_job_that_cannot_place_its_trace_says_what_to_do(batch_file):
    (job, *_) = load_plan(batch_file).jobs
    job.trace.parent.parent.mkdir(parents=True)
    job.trace.parent.write_text("a file where the folder should be")
    error = run_job(job).error
    assert error.startswith(f"{job.trace.parent} cannot be written (File exists); free space or")
