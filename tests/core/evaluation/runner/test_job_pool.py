"""Jobs: results keep their order, finished ones are not done again, other weights are others'."""

import json
from dataclasses import dataclass

import pytest

from megacontext.core.config import parse_config
from megacontext.core.evaluation.runner import job_pool as module
from megacontext.core.evaluation.runner.job_pool import (
    Refused,
    Store,
    fingerprint,
    plain_config,
    run_jobs,
    workers_for,
)
from megacontext.core.evaluation.runner.job_specs import RESULTS, RecallJob, Sources
from megacontext.core.evaluation.tasks.recall import Result
from megacontext.core.evaluation.tasks.synthesize import TaskGenConfig
from megacontext.traces.errors import ModelError, StorageError


@dataclass(frozen=True)
class Echo:
    value: int


@dataclass(frozen=True)
class Job:
    value: int
    weight: float = 1.0
    config: str = ""
    optional: bool = False
    label: str = "echo"

    def run(self, workspace):
        RAN.append(self.value)
        if self.value < 0:
            raise ModelError("no")
        return [Echo(self.value), Echo(self.value + 1)]


RAN: list[int] = []
_REAL = "test_results_do_not_depend_on_the_number_of_processes"


@pytest.fixture(autouse=True)
def without_model(monkeypatch, request):
    if request.node.name != _REAL:
        monkeypatch.setattr(module, "_workspace", lambda config: None)
    RAN.clear()


def store(tmp_path, resume=False, weights="w"):
    return Store(tmp_path / "out" / "jobs.jsonl", resume, weights, (Echo, Refused))


def test_long_jobs_begin_first_and_results_keep_their_order(tmp_path):
    told = []
    result = run_jobs(
        [Job(1), Job(5, weight=9)], 1, store(tmp_path), lambda *news: told.append(news)
    )
    assert result == [[Echo(1), Echo(2)], [Echo(5), Echo(6)]]
    assert RAN == [5, 1]
    assert told == [(0, 2, ""), (1, 2, "echo"), (2, 2, "echo")]


def test_an_interrupted_run_does_the_rest(tmp_path):
    with pytest.raises(ModelError):
        run_jobs([Job(3, weight=2), Job(-1)], 1, store(tmp_path))
    path = tmp_path / "out" / "jobs.jsonl"
    with path.open("a") as file:
        file.write('{"job": "cut by a ki')
    RAN.clear()
    result = run_jobs([Job(3, weight=2), Job(4)], 1, store(tmp_path, resume=True))
    assert (RAN, result[0]) == ([4], [Echo(3), Echo(4)])
    for kept in ({"resume": False}, {"resume": True, "weights": "others"}):
        RAN.clear()
        run_jobs([Job(3, weight=2)], 1, store(tmp_path, **kept))
        assert RAN == [3]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_store_that_cannot_be_begun_keeps_what_was_finished(tmp_path, monkeypatch):
    run_jobs([Job(3, weight=2), Job(4)], 1, store(tmp_path))
    path = tmp_path / "out" / "jobs.jsonl"
    before = path.read_text()

    def full(self, record):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_line", full)
        with pytest.raises(StorageError, match="No space left"):
            store(tmp_path, resume=True)
    assert path.read_text() == before
    RAN.clear()
    run_jobs([Job(3, weight=2), Job(5)], 1, store(tmp_path, resume=True))
    assert RAN == [5]
    assert path.read_text().startswith(before)


def test_only_an_optional_job_does_without_its_model(tmp_path, monkeypatch):
    def missing(config):
        raise ModelError("no LensNet here.")

    monkeypatch.setattr(module, "_workspace", missing)
    assert run_jobs([Job(1, optional=True)], 1, store(tmp_path)) == [[Refused("no LensNet here.")]]
    with pytest.raises(ModelError):
        run_jobs([Job(1)], 1, store(tmp_path))


def test_workers_and_threads_are_plain():
    config = parse_config("model: {path: some/model}")
    assert (workers_for(config, 3), workers_for(config, 0)) == (3, 1)
    assert workers_for(parse_config(""), 0) >= 1
    assert parse_config(plain_config(config)).threads == 1
    assert parse_config(plain_config(parse_config("threads: 2"))).threads == 2


def test_the_fingerprint_is_of_contents(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "weights").write_bytes(b"1")
    config = parse_config(f"model: {{path: {folder}}}")
    before = fingerprint(config)
    assert before == fingerprint(config)
    (folder / "weights").write_bytes(b"12")
    assert fingerprint(config) != before


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_processes(config_text, tmp_path):
    hay = tmp_path / "hay.jsonl"
    hay.write_text(json.dumps({"text": "A line of plain hay, over and over.\n" * 400}))
    plain = plain_config(parse_config(config_text))
    tasks = TaskGenConfig(128, (8,), 3, ("passkey",), facts=1, per_history=1)
    work = [
        RecallJob(plain, Sources((str(hay),)), tasks, times, first, first, ("random", "ours"))
        for times, first in tasks.histories()
    ]
    one, two = (
        run_jobs(work, workers, Store(tmp_path / f"{workers}.jsonl", False, "w", RESULTS))
        for workers in (1, 2)
    )
    assert one == two
    assert all(isinstance(result, Result) for matches in one for result in matches)
