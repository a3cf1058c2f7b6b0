"""Tasks made here: gold is where it says, answers are there, nothing depends on luck."""

import pytest

from megacontext.core.evaluation.tasks.corpora import boundaries, documents_from, haystack
from megacontext.core.evaluation.tasks.recall_tasks import Text
from megacontext.core.evaluation.tasks.synthesize import (
    DEFAULT_KINDS,
    KINDS,
    TaskGenConfig,
    TaskGenerator,
    make_tasks,
)
from megacontext.traces.errors import ConfigError, SourceError


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from megacontext.core.runtime.pretrained import bundle_folder

    folder = bundle_folder() / "base"
    if not (folder / "tokenizer.json").is_file():
        pytest.skip("the bundle is not there")
    return AutoTokenizer.from_pretrained(folder).backend_tokenizer


@pytest.fixture(scope="module")
def texts():
    line = "Some plain words stand here. Then the next sentence goes on for a while.\n"
    return [Text("a", "", line * 500), Text("b", "", line.upper() * 500)]


@pytest.fixture(scope="module")
def made(tokenizer, texts):
    options = TaskGenConfig(256, (4, 16), 16, facts=1, per_history=8, seed=5)
    return make_tasks(options, tokenizer, texts)


def test_gold_spans_hold_the_answer_outside_the_newest_window(made, tokenizer):
    assert len(made) == 32
    for task in made:
        said = " ".join(task.history[a:b] for a, b in task.gold)
        for part in task.answer.split(", ") if task.kind == "multi_value" else [task.answer]:
            assert part in said
        behind = tokenizer.encode(task.history[task.gold[-1][1] :])
        assert len(behind.ids) > 256


def test_lengths_kinds_and_histories_are_as_asked(made, tokenizer):
    assert {task.kind for task in made} == set(DEFAULT_KINDS)
    assert len({task.history for task in made}) == 4
    for task in made:
        tokens = len(tokenizer.encode(task.history).ids)
        assert 0.95 * task.times * 256 < tokens < 1.05 * task.times * 256


def test_tasks_repeat_by_seed(made, tokenizer, texts):
    options = TaskGenConfig(256, (4, 16), 16, facts=1, per_history=8, seed=5)
    assert make_tasks(options, tokenizer, texts) == made
    other = TaskGenConfig(256, (4, 16), 16, facts=1, per_history=8, seed=6)
    assert make_tasks(other, tokenizer, texts) != made


def test_a_common_word_has_no_gold(tokenizer, texts):
    (task,) = make_tasks(TaskGenConfig(128, (4,), 1, ("common_word",)), tokenizer, texts)
    words = task.history.split()
    counts = {word: words.count(word) for word in words}
    assert max(counts, key=counts.get) == task.answer
    assert task.gold == ()


def test_impossible_wishes_are_refused(tokenizer, texts):
    with pytest.raises(ConfigError, match="'nope' is unknown"):
        make_tasks(TaskGenConfig(128, kinds=("nope",)), tokenizer, texts)
    with pytest.raises(ConfigError, match="at least 1"):
        make_tasks(TaskGenConfig(128, facts=0), tokenizer, texts)
    with pytest.raises(ConfigError, match="lower --per-history"):
        make_tasks(TaskGenConfig(128, (4,), 10), tokenizer, texts)
    with pytest.raises(SourceError, match="give longer texts"):
        make_tasks(TaskGenConfig(1024, (64,)), tokenizer, [Text("a", "", "short\n")])
    assert "common_word" in KINDS


def test_haystacks_start_at_lines_and_take_turns(texts):
    pieces = [haystack(texts, 400, 0, number) for number in range(4)]
    assert [piece.isupper() for piece in pieces] == [False, True, False, True]
    assert all(len(piece) == 400 and piece.upper().startswith("SOME") for piece in pieces)
    assert len(haystack([Text("a", "", "x" * 90), Text("b", "", "y" * 90)], 150, 0, 0)) == 150
    assert boundaries("ab. c\nd! e.f").tolist() == [3, 6, 8]


def test_texts_in_parts_cover_the_text():
    parts = documents_from([Text("a", "d", "0123456789")], 3)
    assert [(p.name, p.domain, p.text) for p in parts] == [
        ("a/0", "d", "012"),
        ("a/1", "d", "345"),
        ("a/2", "d", "678"),
    ]


@pytest.mark.slow
def test_the_bundled_model_answers_what_the_oracle_brings():
    from megacontext.core.config import parse_config
    from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
    from megacontext.core.evaluation.tasks.corpora import library_texts
    from megacontext.core.evaluation.tasks.recall import evaluate_recall, summarize_recall

    workspace = EvalWorkspace.load(parse_config("w_max: 512\nthreads: 1"))
    options = TaskGenConfig(512, (8,), 8, ("passkey", "conversation"), facts=1)
    backend = workspace.base.tokenizer.hf.backend_tokenizer
    tasks = make_tasks(options, backend, library_texts())
    figures = summarize_recall(evaluate_recall(workspace, tasks, ["oracle", "recency"]))
    assert figures["oracle"].overall.gold_expanded == 1
    assert figures["recency"].overall.accuracy == 0
    assert figures["oracle"].overall.accuracy >= 0.5


def test_more_facts_than_a_history_holds_are_refused_before_any_is_made(tokenizer, texts):
    # 16 * 256 tokens less a question's 32 and the text's 384 leave 3,680: 460 facts of 8.
    for kinds in ((), ("passkey",)):
        options = TaskGenConfig(256, (64, 16), 2, kinds, facts=461)
        with pytest.raises(ConfigError, match=r"--facts is 461.*16 \* w_max.*most 460.*--times"):
            TaskGenerator(options, tokenizer, texts)
    TaskGenerator(TaskGenConfig(256, (64, 16), 2, facts=460), tokenizer, texts)
