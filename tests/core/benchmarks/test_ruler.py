"""RULER: prompts split where the context ends, gold found in it; the package where installed."""

import importlib.util

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from megacontext.core.benchmarks import ruler
from megacontext.core.benchmarks.ruler import RULER_TASKS, generate_ruler, gold_of, split_input
from megacontext.core.benchmarks.ruler_child import CountingTokenizer, sentences
from megacontext.traces.errors import ConfigError, SourceError

NIAH = (
    "A special magic number is hidden within the following text.\n"
    "One of the special magic numbers for red-cat is: 111. It rains. "
    "One of the special magic numbers for old-dog is: 222.\n"
    "What is the special magic number for old-dog mentioned in the provided text? The special "
    "magic number for old-dog mentioned in the provided text is"
)
VT = (
    "VAR ABC = 1 VAR QQQ = VAR ABC\nQuestion: Find all variables that x\n\n"
    "VAR ABCDE = 12345. The sky. VAR FGHIJ = VAR ABCDE  done. VAR KLMNO = 777\n"
    "Question: Find all variables that are assigned the value 12345 in the text above."
)


def texts(history, spans):
    return [history[start:end] for start, end in spans]


def test_a_needle_of_the_asked_key_is_gold():
    history, question = split_input(NIAH, "niah")
    assert history + question == NIAH
    assert question.startswith("\nWhat is")
    sample = {"kind": "niah", "outputs": ["222"]}
    spans = gold_of(history, question, sample)
    assert texts(history, spans) == ["One of the special magic numbers for old-dog is: 222."]


def test_all_assignments_of_a_chain_are_gold():
    history, question = split_input(VT, "variable_tracking")
    spans = gold_of(history, question, {"kind": "variable_tracking", "outputs": ["ABCDE", "FGHIJ"]})
    assert texts(history, spans) == ["VAR ABCDE = 12345", "VAR FGHIJ = VAR ABCDE"]


def test_the_sentence_around_an_answer_is_gold():
    document = "It was cold. The Normans came from France in spring. They stayed."
    history = f"Answer the question.\n\nDocument 1:\n{document}\n\nDocument 2:\nOther."
    sample = {"kind": "qa", "evidence": [[document, ["France", "in France"]], ["missing", ["x"]]]}
    assert texts(history, gold_of(history, "", sample)) == [
        "The Normans came from France in spring."
    ]


def test_nothing_is_gold_where_words_are_counted():
    assert gold_of("a b", "", {"kind": "common_words_extraction", "outputs": ["a"]}) == ()


def test_a_prompt_of_another_version_is_refused():
    with pytest.raises(SourceError, match="niah"):
        split_input("nothing of the kind", "niah")


def test_sentences_end_at_stops_before_capitals():
    text = 'He left at 5 p.m. on Monday. She said: "No." (Then 3.5 days passed.) 12 came.'
    assert sentences(text) == [
        "He left at 5 p.m. on Monday.",
        'She said: "No.',
        "(Then 3.5 days passed.",
        "12 came.",
    ]


def test_counts_that_decide_are_exact(model_folder):
    tokenizer = CountingTokenizer(str(model_folder / "tokenizer.json"))
    tokenizer.limit = 10**6
    short, long = "abc " * 10, "abc " * 20_000
    exact = tokenizer.count(long)
    assert len(tokenizer.text_to_tokens(short)) == tokenizer.count(short)
    assert exact < len(tokenizer.text_to_tokens(long)) < 1.2 * exact  # far below the limit
    tokenizer.limit = exact + 500
    assert len(tokenizer.text_to_tokens(long)) == exact


def test_bad_requests_are_one_sentence(monkeypatch):
    with pytest.raises(ConfigError, match="unknown"):
        generate_ruler(None, ["nia"], [4096], 1)
    with pytest.raises(ConfigError, match="too short"):
        generate_ruler(None, ["vt"], [1024], 1)
    monkeypatch.setattr(ruler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"megacontext\[ruler\]"):
        ruler._package()


@pytest.fixture(scope="module")
def word_tokenizer():
    """Words of a few letters, as tokens of a usual size are."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s*\S{1,5}"), "isolated")
    return tokenizer


needs_package = pytest.mark.skipif(
    importlib.util.find_spec("long_context_eval") is None, reason="the extra ruler"
)


@needs_package
@pytest.mark.parametrize("shared", [1, 3])
def test_official_samples_have_the_length_and_their_gold(word_tokenizer, shared):
    tokenizer, length = word_tokenizer, 4096
    names = ["vt", "qa_1", "fwe"]
    tasks = generate_ruler(tokenizer, names, [length], 3, shared=shared)
    assert [(t.name, t.sample) for t in tasks] == [(n, s) for n in names for s in range(3)]
    for task in tasks:
        count = len(tokenizer.encode(task.history + task.question).ids) + task.max_tokens
        assert length * 0.5 < count <= length * 1.01
        if task.name == "fwe":
            assert not task.gold
        else:
            held = " ".join(task.history[start:end] for start, end in task.gold)
            assert any(output in held for output in task.outputs)
    groups = {t.group for t in tasks if t.name == "vt"}
    assert len(groups) == (1 if shared == 3 else 3)
    assert len({id(t.history) for t in tasks if t.name == "vt"}) == len(groups)
    assert set(RULER_TASKS) >= set(names)
