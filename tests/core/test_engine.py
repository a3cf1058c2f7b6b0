"""The public Python API."""

import argparse
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import megacontext.core
from megacontext.core import Answer, Config, Engine, FocusAction, Refocus
from megacontext.core.allocators import Greedy, Slot
from megacontext.core.lenses import BM25, LensNeeds
from megacontext.core.verify import verify
from megacontext.traces import TraceReader
from megacontext.traces.errors import BudgetError, ConfigError, SourceError

ROOT = Path(__file__).parents[2]
FACT = "\nThe access code of the north archive is 48213.\n"
FILLER = "".join(
    f"Line {i} of the report says nothing of interest about topic {i * 7}.\n" for i in range(90)
)


@pytest.fixture
def load(model_folder):
    def load(**options):
        options = {"w_max": 128, "config": SMALL} | options
        return Engine.load(model_folder, **options)

    return load


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = inspect.getsource(argparse)
    Path("book.txt").write_text(code[:1500] + FACT + code[1500:9500])


SMALL = megacontext.core.Config(block_size=8, w_max=128)


def example(page):
    """The first Python block of a page."""
    return re.search(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL).group(1)


def run(code):
    Path("example.py").write_text(code)
    runpy.run_path("example.py")


def test_the_names_of_the_api_are_frozen():
    assert megacontext.core.__all__ == [
        "Answer",
        "Config",
        "Engine",
        "FocusAction",
        "Refocus",
        "load_config",
    ]
    public = {name: getattr(Engine, name) for name in dir(Engine) if not name.startswith("_")}
    parameters = {
        name: [p for p in inspect.signature(value).parameters if p != "self"]
        for name, value in public.items()
        if callable(value)
    }
    assert parameters == {
        "append": ["text"],
        "ask": ["question", "max_new_tokens", "stop", "on_text"],
        "close": [],
        "generate": ["max_new_tokens", "stop"],
        "load": ["model", "w_max", "lens", "allocator", "trace", "config", "tree"],
        "refocus": [],
        "text": ["start", "stop"],
    }
    assert set(public) - set(parameters) == {"last_refocus", "n_tokens", "notes", "working_context"}
    fields = {c: list(c.__dataclass_fields__) for c in (Answer, Refocus, FocusAction)}
    assert fields == {
        Answer: ["text", "n_tokens", "refocus"],
        Refocus: ["step", "trigger", "actions"],
        FocusAction: ["kind", "level", "index", "start", "stop", "score", "forced"],
    }
    assert all((ROOT / p / "py.typed").is_file() for p in ("core", "traces", "simulator"))


def test_importing_the_api_loads_no_model_code():
    code = (
        "import sys, megacontext.core\n"
        "sys.exit(len({'torch', 'transformers', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_documented_example_answers_from_a_book(book, capsys):
    code = example("docs/api.md")
    assert sum(bool(line) for line in code.splitlines()) <= 6
    assert not re.search(r"\b_\w", code)
    run(code)
    said = capsys.readouterr().out
    assert "48213" in said.partition("refocus=")[0]
    assert "FocusAction(kind='expand', level=1, " in said
    assert said.count("\n") > 1  # what generate streamed
    assert not verify(Path("run.arrow")).problems


def test_the_readme_shows_the_same_example():
    assert example("README.md") == example("docs/api.md")


def test_an_answer_names_the_refocus_of_its_question(load):
    with load() as engine:
        engine.append(FILLER[:700])
        pieces = []
        answer = engine.ask("What is line 3?", max_new_tokens=20, stop="", on_text=pieces.append)
        assert answer.refocus.trigger == "turn_end"
        assert answer.n_tokens == 20
        assert "".join(pieces).strip() == answer.text
        assert engine.last_refocus.step > answer.refocus.step  # the answer closed a block
        for action in answer.refocus.actions:
            assert action.stop - action.start == 8**action.level
        assert engine.text(0, engine.n_tokens).startswith(FILLER[:700] + "\nQuestion: What is")


def test_generate_streams_what_the_history_holds_and_may_be_left(load):
    with load() as engine:
        engine.append("abc " * 40)
        before = engine.n_tokens
        stream = engine.generate(max_new_tokens=30)
        first = next(stream) + next(stream)
        stream.close()
        assert engine.text(before, engine.n_tokens).startswith(first)
        assert before < engine.n_tokens < before + 30
        again = "".join(engine.generate(max_new_tokens=10))
        assert engine.text(before, engine.n_tokens).endswith(again)


def test_a_stop_text_is_neither_yielded_nor_begun(load, monkeypatch):
    script = iter(["x", "a", "ba", "ab", "c", "never"])
    with load() as engine:
        engine.append("some text")
        monkeypatch.setattr(engine._session, "decode", lambda limit: next(script))
        assert list(engine.generate(max_new_tokens=9, stop="abc")) == ["x", "ab", "a"]
    assert next(script) == "never"


def test_with_and_without_a_trace_the_engine_does_the_same(load, tmp_path):
    texts = []
    for trace in (None, tmp_path / "t.arrow"):
        with load(trace=trace) as engine:
            engine.append(FILLER[:700])
            texts.append(engine.ask("What is it?", max_new_tokens=12).text)
            levels = engine.working_context.levels.tolist()
    with TraceReader.open(tmp_path / "t.arrow") as reader:
        rows = list(reader.rows())
    assert texts[0] == texts[1]
    assert sum(len(row.new_tokens) for row in rows) == rows[-1].history_tokens
    assert len(rows[-1].levels) >= len(levels) - 2
    assert not verify(tmp_path / "t.arrow").problems


class Oldest:
    """A lens and an allocator that no config names."""

    name = "oldest"
    requires = LensNeeds()

    def score(self, observation):
        return np.linspace(1, -1, len(observation.levels), dtype=np.float32)

    def propose(self, view):
        return Greedy().propose(view)


def test_lens_and_allocator_may_be_objects(load, tmp_path):
    trace = tmp_path / "t.arrow"
    with load(lens=BM25(), allocator=Slot(temperature=0.5), trace=trace) as engine:
        engine.append(FILLER[:500])
    assert verify(trace).allocator == "slot"
    assert not verify(trace).problems

    with load(lens=Oldest(), allocator=Oldest(), trace=trace) as engine:
        engine.append(FILLER[:500])
        assert "the lens is an object: oldest" in engine.notes
        assert engine.working_context.levels[0] == 0  # the oldest block is raw
    report = verify(trace)
    assert not report.problems
    assert any("oldest" in note for note in report.notes)


def test_an_allocator_with_an_option_no_config_has_is_not_taken_for_another(load, tmp_path):
    trace = tmp_path / "t.arrow"
    with load(allocator=Slot(claim=0.1), trace=trace) as engine:
        engine.append(FILLER[:500])
    report = verify(trace)
    assert not report.problems
    assert any("it was an object" in note for note in report.notes)


def test_a_tree_is_gone_on_with(load, tmp_path):
    with load(tree=tmp_path / "tree") as engine:
        count = engine.append(FILLER[:500])
    with load(tree=tmp_path / "tree") as engine:
        assert engine.n_tokens == count
        engine.append("more")
        assert engine.text(count - 5, engine.n_tokens) == FILLER[495:500] + "more"


def test_what_a_caller_does_wrong_is_said(load):
    with pytest.raises(BudgetError, match="w_max is 16"):
        load(w_max=16)
    with pytest.raises(ConfigError, match=r"lens\.kind is 'nope'"):
        load(lens="nope")
    engine = load()
    with pytest.raises(SourceError, match="nothing to decode"):
        list(engine.generate(max_new_tokens=1))
    with pytest.raises(SourceError, match="question is empty"):
        engine.ask(" ")
    with pytest.raises(ConfigError, match="max_new_tokens is -1"):
        list(engine.generate(max_new_tokens=-1))
    assert engine.append("") == 0
    engine.close()
    engine.close()
    with pytest.raises(SourceError, match="closed"):
        engine.append("more")


def test_a_config_is_used_and_arguments_win(model_folder):
    config = Config(block_size=16, w_max=400)
    with Engine.load(model_folder, config=config, w_max=256) as engine:
        assert engine.working_context.w_max == 256
        assert engine.working_context.block_size == 16


def test_a_trace_changes_nothing_but_the_record(load, tmp_path):
    with load() as silent, load(trace=tmp_path / "t.arrow") as recorded:
        for engine in (silent, recorded):
            for text in (FILLER[:150], FACT, FILLER[150:310]):  # each ends inside a block
                engine.append(text)
        assert recorded.last_refocus == silent.last_refocus
        assert recorded.working_context.levels.tolist() == silent.working_context.levels.tolist()
