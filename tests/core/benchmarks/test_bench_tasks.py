"""Files of benchmark tasks and RULER's scores."""

from dataclasses import replace

import pytest

from megacontext.core.benchmarks.tasks import BenchTask, load_bench, score_of, write_bench
from megacontext.traces.errors import SourceError

TASK = BenchTask(
    benchmark="ruler",
    name="vt",
    length=4096,
    sample=0,
    history="one two three",
    question="\nwhich?",
    outputs=("two", "three"),
    metric="all",
    max_tokens=30,
    gold=((4, 7), (8, 13)),
)


@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.jsonl.xz"])
def test_tasks_come_back_and_a_history_is_stored_once(tmp_path, name):
    tasks = [TASK, replace(TASK, sample=1, question="\nand?"), replace(TASK, history="other")]
    path = tmp_path / name
    write_bench(path, tasks, {"seed": 1})
    assert list(load_bench(path)) == tasks
    if name.endswith("jsonl"):
        assert path.read_text().count("one two three") == 1


@pytest.mark.parametrize(
    ("answer", "outputs", "metric", "score"),
    [
        (" It is 12 and B.", ["12", "b", "c"], "all", 2 / 3),
        ("no", ["12"], "all", 0),
        ("the Normans", ["France", "normans"], "part", 1),
        ("kitchen.", ["kitchen"], "start", 1),
        ("kitchens", ["kitchen"], "start", 0),
        ("in the kitchen", ["kitchen"], "start", 0),
        ("new\x00york", ["new york"], "part", 0),
    ],
)
def test_scores_are_those_of_ruler(answer, outputs, metric, score):
    assert score_of(answer, outputs, metric) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no task"),
        ("{}\n", "no file of benchmark tasks"),
        ("not json\n", "no file of benchmark tasks"),
        ('{"format": "megacontext benchmark tasks", "version": 9}\n', "version 9"),
        ('{"format": "megacontext benchmark tasks", "version": 1}\n{"name": 1}\n', "benchmark"),
    ],
)
def test_another_file_is_refused_in_a_sentence(tmp_path, text, word):
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    with pytest.raises(SourceError, match=word):
        load_bench(path)


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "tasks.jsonl.xz"
    write_bench(path, [TASK], {})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError):
        load_bench(path)
