"""Contenders over one history: who sees the gold block, at what budget."""

import numpy as np
import pytest

from megacontext.core.evaluation.contenders.base import NO_GOLD, Sample
from megacontext.core.evaluation.contenders.registry import CONTENDERS
from megacontext.core.evaluation.sessions.block_session import (
    best_blocks,
    newest_blocks,
    sink_and_newest,
)
from megacontext.core.evaluation.sessions.embedder import DENSE_PACKAGE
from megacontext.core.evaluation.sessions.engine_session import is_raw
from megacontext.core.evaluation.sessions.history import token_spans
from megacontext.core.evaluation.tasks.recall import Result, evaluate_recall, summarize_recall
from megacontext.core.evaluation.tasks.recall_tasks import RecallTask
from megacontext.core.focus import WorkingContext
from megacontext.core.model import KVWindow


@pytest.fixture(scope="module")
def task(fact_task):
    gold = tuple(fact_task["gold"])
    return RecallTask(fact_task["history"], fact_task["question"], "5731", (gold,))


def ask(workspace, task, name, stream=False):
    history = workspace.history(task.history)
    gold = token_spans(history.offsets, task.gold)
    sample = Sample(workspace.config, history, len(history.tokens), gold, stream)
    session = CONTENDERS[name].open(workspace, sample)
    prompt = workspace.base.tokenizer.encode(f"\nQuestion: {task.question}\nAnswer:")
    return session, session.ask(prompt, 6, "")


@pytest.mark.parametrize("stream", [False, True])
def test_the_oracle_brings_gold_and_recency_never_does(workspace, task, stream):
    _, oracle = ask(workspace, task, "oracle", stream)
    assert oracle.gold_raw
    assert oracle.refocuses >= 1
    for name in ("recency", "delete", "gists"):
        _, asked = ask(workspace, task, name, stream)
        assert asked.gold_raw is False
        assert asked.refocuses is None


@pytest.mark.parametrize("name", [n for n in CONTENDERS if n != "full"])
def test_no_contender_exceeds_the_budget(workspace, task, name, monkeypatch):
    if name == "dense":
        pytest.importorskip(DENSE_PACKAGE, reason="needs the extra dense")
    held = []
    append = KVWindow.append

    def watched(self, tokens):
        forward = append(self, tokens)
        held.append((len(self), self.w_max))
        return forward

    monkeypatch.setattr(KVWindow, "append", watched)
    ask(workspace, task, name)
    assert held
    assert all(w_max == workspace.config.w_max and rows <= w_max for rows, w_max in held)


def test_full_takes_part_only_while_the_history_fits(workspace, task, fact_task):
    short = RecallTask(task.history[:200], task.question, "5731")
    results = evaluate_recall(workspace, [task, short], ["ours", "full", "oracle"])
    assert [(r.task, r.contender) for r in results] == [
        (0, "ours"),
        (0, "oracle"),
        (1, "ours"),
        (1, "full"),
    ]


def test_full_decodes_what_the_plain_model_decodes(workspace, task):
    import torch

    short = RecallTask(task.history[:200], task.question, "5731")
    _, asked = ask(workspace, short, "full")
    text = short.history + f"\nQuestion: {task.question}\nAnswer:"
    ids = list(workspace.base.tokenizer.encode(text))
    with torch.no_grad():
        for _ in range(6):
            logits = workspace.base.module(torch.tensor([[int(i) for i in ids]])).logits
            ids.append(int(logits[0, -1].argmax()))
    assert asked.text == workspace.base.tokenizer.decode(ids[-6:])


def test_results_repeat_and_do_not_depend_on_company(workspace, task):
    alone = evaluate_recall(workspace, [task], ["random"])
    among = evaluate_recall(workspace, [task], ["bm25", "oracle", "random"])
    assert alone[0] == among[2]
    other = RecallTask(task.history.replace("zulu", "echo"), task.question, "5731")
    evaluate_recall(workspace, [other], ["ours"])
    assert evaluate_recall(workspace, [task], ["ours"]) == evaluate_recall(
        workspace, [task], ["ours"]
    )


@pytest.mark.parametrize("name", ["recency", "delete", "bm25", "full"])
def test_questions_about_one_history_share_rows_and_nothing_else(workspace, task, fact_task, name):
    """Prompts of several lengths: the second closes blocks and drops other ones."""
    text = fact_task["history"][: 300 if name == "full" else 1_000]
    prompts = ["\nQ: zulu?\nA:", "\nQuestion: " + "what is the zulu code? " * 2, "\nWho?\n"]

    def logits(history, prompt):
        sample = Sample(workspace.config, history, len(history.tokens), NO_GOLD)
        session = CONTENDERS[name].open(workspace, sample)
        session.read_question(workspace.base.tokenizer.encode(prompt))
        return session.score_tokens(workspace.base.tokenizer.encode(" 5731, or so it seems"))

    history = workspace.history(text)
    shared = [logits(history, prompt) for prompt in prompts]
    alone = [logits(workspace.history_of(history.tokens), prompt) for prompt in prompts]
    for one, other in zip(shared, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert np.abs(shared[0] - shared[1]).max() > 1e-3


def test_fast_and_stream_agree_while_everything_fits(workspace, task):
    short = RecallTask(task.history[:40], task.question, "5731")
    fast, stream = (ask(workspace, short, "ours", stream)[1] for stream in (False, True))
    assert fast == stream


def test_block_picks():
    assert newest_blocks(10, 3, "").tolist() == [7, 8, 9]
    assert sink_and_newest(10, 3, "").tolist() == [0, 8, 9]
    assert sink_and_newest(2, 2, "").tolist() == [0, 1]
    assert sink_and_newest(10, 1, "").tolist() == [9]


def test_bm25_keeps_the_newest_blocks_and_fills_with_newer_ones(workspace):
    text = "aaaa bbb" * 10 + "zulu one" + "aaaa bbb" * 5
    pick = best_blocks(workspace.history(text).search.scores, recent=2)
    assert pick(16, 4, "zulu").tolist() == [10, 13, 14, 15]
    assert pick(16, 16, "zulu").tolist() == list(range(16))
    assert pick(16, 1, "zulu").tolist() == [15]


def test_is_raw_looks_at_every_touched_node():
    context = WorkingContext(4, 2, 64, 1)
    context.load(np.array([2, 1, 0, 0], np.int8), 16 + 12 + 2)
    for span, raw in (((20, 24), True), ((19, 24), False), ((0, 1), False), ((28, 30), True)):
        assert is_raw(context, np.array([span])) is raw
    assert not is_raw(context, np.array([(20, 24), (3, 5)]))


def test_the_summary_counts_what_it_says():
    def result(name, right, gold, took, times):
        return Result(0, name, "k", times, right, "", gold, took)

    results = [
        result("ours", True, True, 1, 4),
        result("ours", False, True, 3, 4),
        result("ours", True, False, None, 16),
        result("ours", False, None, None, 16),
        result("recency", False, None, None, 4),
    ]
    table = {name: s.to_json() for name, s in summarize_recall(results).items()}
    ours = table["ours"]
    assert (ours["accuracy"], ours["count"], ours["refocuses"]) == (0.5, 4, 2.0)
    assert ours["gold_expanded"] == pytest.approx(2 / 3)
    assert ours["interval"][0] < 0.5 < ours["interval"][1]
    assert list(ours["by_times"]) == ["4", "16"]
    assert ours["by_times"]["16"]["accuracy"] == 0.5
    assert table["recency"]["gold_expanded"] is None
