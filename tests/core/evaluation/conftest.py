"""A tiny random Llama with a byte-level tokenizer, and recall tasks over random words."""

import json

import numpy as np
import pytest

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
def workspace(config_text):
    return EvalWorkspace.load(parse_config(config_text))


@pytest.fixture
def config_file(tmp_path, config_text):
    path = tmp_path / "eval.yaml"
    path.write_text(config_text)
    return path


def words(seed, count):
    rng = np.random.default_rng(seed)
    return " ".join("".join(rng.choice(list("abcdefgh"), 4)) for _ in range(count))


@pytest.fixture(scope="session")
def fact_task():
    """A task record: about 1,600 tokens, the fact near the start."""
    before, after = words(1, 40), words(2, 280)
    fact = "the zulu code is 5731"
    history = f"{before} {fact}. {after}"
    start = history.index(fact)
    return {
        "history": history,
        "question": "what is the zulu code?",
        "answer": "5731",
        "gold": [start, start + len(fact)],
    }


@pytest.fixture
def tasks_file(tmp_path, fact_task):
    path = tmp_path / "tasks.jsonl"
    short = {"history": words(3, 20), "question": "which word?", "answer": "none"}
    path.write_text(json.dumps(fact_task) + "\n\n" + json.dumps(short) + "\n")
    return path


@pytest.fixture
def texts_file(tmp_path):
    path = tmp_path / "texts.jsonl"
    records = [
        {"doc": "one", "domain": "a", "text": words(4, 230)},
        {"doc": "two", "domain": "b", "text": words(5, 120)},
        {"doc": "short", "domain": "b", "text": "too short"},
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path
