"""lm-evaluation-harness on the focus, with tasks of its own kind in memory."""

import json

import pytest

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from megacontext.core.benchmarks.harness import FocusLM, question_start
from megacontext.core.cli.app import app, guard
from megacontext.traces.errors import ConfigError

SMALL = {"block_size": 8, "tree__max_levels": 3, "gist__kind": "mean", "lens__kind": "similarity"}


@pytest.fixture(scope="module")
def lm(model_folder):
    return FocusLM(pretrained=str(model_folder), w_max=128, threads=1, batch_size=1, **SMALL)


def instance(kind, *arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def test_a_short_context_is_scored_as_by_the_plain_model(lm):
    import torch

    pairs = [("abc abc", " abd"), ("", "hello"), ("ends in space ", "x")]
    found = lm.loglikelihood([instance("loglikelihood", *p) for p in pairs], disable_tqdm=True)
    model = lm._kit.base
    for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
        tokens, count = lm._pair(context, continuation)
        logits = model.module(torch.tensor(tokens.astype("int64"))[None]).logits[0].float()
        rows = torch.log_softmax(logits, -1)[-count - 1 : -1]
        own = torch.tensor(tokens[-count:].astype("int64"))
        assert value == pytest.approx(float(rows.gather(1, own[:, None]).sum()), abs=1e-3)
        assert greedy == bool((rows.argmax(-1) == own).all())


def test_a_greedy_continuation_is_known_as_such(lm):
    (text,) = lm.generate_until(
        [instance("generate_until", "abc abc", {"until": [], "max_gen_toks": 3})], True
    )
    (found,) = lm.loglikelihood([instance("loglikelihood", "abc abc", text)], True)
    assert found[1]


def test_a_long_context_is_history_and_question(lm):
    context = "word " * 100 + "\n\nwhat is it?"
    tokens = lm._encode(context)
    cut = lm._cut(tokens, 4)
    assert lm._kit.base.tokenizer.decode(tokens[cut:]) == "what is it?"
    found = lm.loglikelihood(
        [instance("loglikelihood", context, word) for word in (" abc", " abd")], True
    )
    assert all(value < 0 for value, _ in found)
    (text,) = lm.generate_until(
        [instance("generate_until", context, {"until": ["\n"], "max_gen_toks": 20})], True
    )
    assert "\n" not in text


def test_rolling_reads_texts_longer_than_the_window(lm):
    requests = [instance("loglikelihood_rolling", text) for text in ("abcd " * 120, "ab", "")]
    long, short, empty = lm.loglikelihood_rolling(requests, True)
    assert long < short < empty == 0


def test_where_a_question_begins():
    assert question_start(["a b", "\n\n", "c", " d"]) == 2
    assert question_start(["a", "\n", "b", "\n"]) == 2
    assert question_start(["a", "b"]) == 0


def test_bad_arguments_are_refused(model_folder):
    with pytest.raises(ConfigError, match="nobody"):
        FocusLM(pretrained=str(model_folder), contender="nobody")
    with pytest.raises(ConfigError, match="w_maxx"):
        FocusLM(pretrained=str(model_folder), w_maxx=3)


@pytest.mark.slow
def test_the_command_runs_a_local_task(model_folder, tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    rows = [{"text": "word " * 60, "choices": ["abc", "abd"], "label": i % 2} for i in range(2)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "local.yaml").write_text(
        "task: focus_local\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "test_split: test\n"
        "output_type: multiple_choice\n"
        'doc_to_text: "{{text}}"\n'
        'doc_to_choice: "{{choices}}"\n'
        'doc_to_target: "{{label}}"\n'
        "metric_list: [{metric: acc}]\n"
    )
    small = ",".join(f"{key}={value}" for key, value in SMALL.items())
    code = guard(
        app,
        [
            *("lm-eval", "--model_args", f"pretrained={model_folder},w_max=128,threads=1,{small}"),
            *("--tasks", "focus_local", "--include_path", str(tmp_path)),
        ],
    )
    assert code == 0
    assert "focus_local" in capsys.readouterr().out
