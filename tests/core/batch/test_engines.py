"""Worker processes and Ray: who dies alone, what a killed batch leaves, equal tables."""

import fcntl
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from megacontext.core.batch.engines import ENGINES, run_local, run_ray
from megacontext.core.batch.job import run_job
from megacontext.core.batch.plan import BatchJob, load_plan
from megacontext.core.batch.run import run_batch
from megacontext.traces.errors import ConfigError

_DIES = """
import os, signal
from megacontext.core.batch.job import JobResult

def run(job):
    if job.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return JobResult(job.name, os.getcwd() if job.name == "where" else "")
"""

# Runs a batch whose second job kills the batch's own process; the worker holds a lock all its life.
_KILLED = """
import fcntl, os, signal, sys, threading
from pathlib import Path

def run(job, held=[]):
    from megacontext.core.batch.job import run_job
    if job.trace.name.endswith("-b-s4.arrow"):
        held.append(open("worker.lock", "w"))
        fcntl.flock(held[0], fcntl.LOCK_EX)
        os.kill(os.getppid(), signal.SIGKILL)
        threading.Event().wait()
    return run_job(job)

if __name__ == "__main__":
    from batch_that_dies import run
    from megacontext.core.batch import engines
    from megacontext.core.batch.plan import load_plan
    from megacontext.core.batch.run import run_batch
    engines.ENGINES["local"] = lambda jobs, workers: engines.run_local(jobs, workers, run)
    run_batch(load_plan(Path(sys.argv[1])))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that this process and its workers can import."""

    def written(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        return importlib.import_module(name)

    return written


@pytest.fixture
def four_jobs(tmp_path):
    names = ("one", "dies", "two", "three")
    return [BatchJob(n, "", 0, "", "", "", tmp_path / n) for n in names]


@contextmanager
def no_longer_than(seconds):
    """Fails instead of waiting for ever."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def columns_of(path):
    """A table without its clocks and places."""
    table = pq.read_table(path)
    return table.select([c for c in table.column_names if not c.startswith(("us_", "trace"))])


def test_a_worker_that_dies_takes_only_its_job_along(module, four_jobs):
    results = {r.name: r.error for r in run_local(four_jobs, 2, module("dying_job", _DIES).run)}
    assert "worker process died" in results.pop("dies")
    assert results == {"one": "", "two": "", "three": ""}


def test_a_killed_batch_leaves_no_worker_and_goes_on_where_it_was(
    batch_file, module, tmp_path, monkeypatch
):
    module("batch_that_dies", _KILLED)
    command = [sys.executable, tmp_path / "batch_that_dies.py", batch_file]
    done = subprocess.run(command, cwd=tmp_path, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    with (tmp_path / "worker.lock").open() as lock, no_longer_than(60):
        fcntl.flock(lock, fcntl.LOCK_EX)
    plan = load_plan(batch_file)
    before = {job.name: job.trace.stat().st_mtime_ns for job in plan.jobs if job.trace.exists()}
    assert list(before) == [plan.jobs[0].name]
    monkeypatch.setitem(ENGINES, "local", lambda jobs, workers: map(run_job, jobs))
    report = run_batch(plan)
    assert (report.resumed, report.failed) == (1, {})
    assert plan.jobs[0].trace.stat().st_mtime_ns == before[plan.jobs[0].name]
    assert pq.read_table(report.parquet).num_rows == 4


@pytest.mark.slow
def test_worker_processes_do_what_one_process_does(batch_file, tmp_path, monkeypatch):
    local = run_batch(load_plan(batch_file, tmp_path / "x"), workers=2)
    monkeypatch.setitem(ENGINES, "local", lambda jobs, workers: map(run_job, jobs))
    here = run_batch(load_plan(batch_file, tmp_path / "y"))
    assert columns_of(local.parquet) == columns_of(here.parquet)


def test_ray_without_its_package_is_one_sentence(batch_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"megacontext\[ray\]"):
        run_batch(load_plan(batch_file), "ray")


@pytest.mark.slow
def test_ray_writes_the_table_that_worker_processes_write(batch_file, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray = run_batch(load_plan(batch_file, tmp_path / "x"), "ray", 2)
    assert (ray.failed, len(ray.rows)) == ({}, 4)
    local = run_batch(load_plan(batch_file, tmp_path / "y"), "local", 2)
    assert columns_of(ray.parquet) == columns_of(local.parquet)


@pytest.mark.slow
def test_a_ray_worker_that_dies_takes_only_its_job_along(module, four_jobs, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    results = {r.name: r.error for r in run_ray(four_jobs, 2, module("dying_ray_job", _DIES).run)}
    assert "its worker died" in results.pop("dies")
    assert results == {"one": "", "two": "", "three": ""}


@pytest.mark.slow
def test_a_running_ray_cluster_is_used_and_jobs_see_the_folder_of_the_batch(
    module, four_jobs, tmp_path, monkeypatch
):
    pytest.importorskip("ray")
    cluster = Path(sys.executable).with_name("ray")
    run = module("ray_job", _DIES).run
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = tmp_path / "head"
    home.mkdir()
    start = [cluster, "start", "--head", "--block", f"--port={port}", "--num-cpus=1"]
    start += ["--disable-usage-stats", "--include-dashboard=false", f"--temp-dir=/tmp/r{port}"]
    with subprocess.Popen(start, cwd=home, stdout=subprocess.PIPE, text=True) as head:
        try:
            assert any("Ray runtime started" in line for line in head.stdout)
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
            monkeypatch.chdir(tmp_path)
            where = BatchJob("where", "", 0, "", "", "", tmp_path / "where")
            (result,) = run_ray([where], 1, run)
            assert result.error == str(tmp_path)
        finally:
            head.terminate()
    shutil.rmtree(f"/tmp/r{port}", ignore_errors=True)


def test_a_ray_address_where_nobody_answers_is_one_sentence(four_jobs, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS is '127\.0\.0\.1:1'"):
        list(run_ray(four_jobs, 1))


def test_a_cluster_with_another_token_is_not_called_away(monkeypatch):
    import types

    class AuthenticationError(RuntimeError):
        pass

    def init(**options):
        raise AuthenticationError("Token authentication is enabled but no token was given")

    fake = types.SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setitem(sys.modules, "ray", fake)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(ConfigError, match=r"wants another token.*RAY_AUTH_TOKEN"):
            list(run_ray([], 1))


def test_a_batch_may_name_packaged_configs(tmp_path):
    plan = tmp_path / "batch.yaml"
    plan.write_text("configs: [demo]\nseeds: [0, 1]\n")
    assert [job.name for job in load_plan(plan).jobs] == ["demo-s0", "demo-s1"]
