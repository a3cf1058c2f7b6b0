"""A tiny model behind the runner, and benchmark tasks over random words."""

from dataclasses import replace

import numpy as np
import pytest

from megacontext.core.benchmarks.tasks import BenchTask, write_bench
from megacontext.core.config import parse_config
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace


@pytest.fixture(scope="session")
def config_text(model_folder):
    return f"""
seed: 3
threads: 1
w_max: 128
block_size: 8
model: {{path: {model_folder}, dtype: float32}}
gist: {{kind: mean}}
lens: {{kind: similarity}}
tree: {{max_levels: 3}}
"""


@pytest.fixture(scope="session")
def kit(config_text):
    return EvalWorkspace.load(parse_config(config_text))


def words(seed, count):
    rng = np.random.default_rng(seed)
    return " ".join("".join(rng.choice(list("abcdefgh"), 4)) for _ in range(count))


@pytest.fixture(scope="session")
def tasks():
    """One short history and one long one with two questions."""
    fact = "the zulu code is 5731"
    history = f"{words(1, 40)} {fact}. {words(2, 280)}"
    start = history.index(fact)
    long = BenchTask(
        benchmark="facts",
        name="codes",
        length=4096,
        sample=0,
        history=history,
        question="\nwhat is the zulu code?",
        outputs=("5731",),
        metric="part",
        max_tokens=20,
        gold=((start, start + len(fact)),),
    )
    short = replace(long, length=0, history=fact, gold=((0, len(fact)),))
    return [short, long, replace(long, sample=1, question="\nwhich zulu code?")]


@pytest.fixture
def tasks_file(tmp_path, tasks):
    path = tmp_path / "tasks.jsonl"
    write_bench(path, tasks, {})
    return path
