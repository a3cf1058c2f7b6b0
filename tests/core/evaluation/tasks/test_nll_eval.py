"""Next-token NLL against the whole history."""

import numpy as np
import pytest

from megacontext.core.evaluation.contenders.base import NO_GOLD, Sample
from megacontext.core.evaluation.contenders.registry import CONTENDERS
from megacontext.core.evaluation.tasks.nll import NLLOptions, Piece, evaluate_nll
from megacontext.core.evaluation.tasks.nll_metrics import paired_difference, summarize_nll
from megacontext.core.evaluation.tasks.recall_tasks import Text, load_texts
from megacontext.core.evaluation.tasks.single_gist import evaluate_single
from megacontext.core.runtime.nll import full_history_nll
from megacontext.traces.errors import ConfigError


@pytest.mark.parametrize("name", ["ours", "recency", "bm25", "delete", "gists"])
def test_what_fits_the_window_costs_nothing(workspace, texts_file, name):
    """Scored tokens are aligned with the full history's: equal windows, equal NLL."""
    tokens = workspace.base.tokenizer.encode(load_texts(texts_file)[0].text)[:96]
    history = workspace.history_of(tokens[:80])
    session = CONTENDERS[name].open(workspace, Sample(workspace.config, history, 40, NO_GOLD))
    session.read(tokens[40:80])
    measured = session.score_tokens(tokens[80:96])
    np.testing.assert_allclose(measured, full_history_nll(workspace.base, tokens, 16), atol=1e-4)


def test_a_stream_of_what_fits_costs_nothing_either(workspace, texts_file):
    tokens = workspace.base.tokenizer.encode(load_texts(texts_file)[0].text)[:96]
    history = workspace.history_of(tokens[:80])
    sample = Sample(workspace.config, history, 40, NO_GOLD, stream=True)
    session = CONTENDERS["ours"].open(workspace, sample)
    session.read(tokens[40:80])
    measured = session.score_tokens(tokens[80:96])
    np.testing.assert_allclose(measured, full_history_nll(workspace.base, tokens, 16), atol=1e-4)


def test_every_piece_is_measured_at_every_budget(workspace, texts_file):
    names = ["ours", "random", "bm25", "mean", "delete"]
    texts = load_texts(texts_file)
    options = NLLOptions((96, 128), horizon=32, pieces=2, length=320, lead=2)
    pieces = evaluate_nll(workspace, texts, names, options)
    # 1,149 and 599 characters are tokens: two pieces and one; the third text is too short.
    assert [(p.document, p.w_max) for p in pieces] == [
        ("one", 96),
        ("one", 128),
        ("one", 96),
        ("one", 128),
        ("two", 96),
        ("two", 128),
    ]
    assert all(list(p.nll) == names for p in pieces)
    assert len({p.start for p in pieces}) == 2
    assert pieces[0].full == pieces[1].full
    assert pieces == evaluate_nll(workspace, texts, names, options)
    alone = [evaluate_nll(workspace, texts, names, options, only=number) for number in range(3)]
    assert sorted(alone[0] + alone[1], key=repr) == sorted(pieces, key=repr)
    assert alone[2] == []


def test_stretches_are_parts_of_one_reading(workspace, texts_file):
    texts = load_texts(texts_file)[:1]
    names = ["ours", "recency", "delete"]
    (long,) = evaluate_nll(workspace, texts, names, NLLOptions((96,), 64, pieces=1, length=320))
    options = NLLOptions((96,), 32, pieces=1, length=320, stretches=2)
    first, second = evaluate_nll(workspace, texts, names, options)
    assert second.start == first.start + 32
    for name in names:
        assert first.nll[name] != second.nll[name]
        mean = (first.nll[name] + second.nll[name]) / 2
        assert mean == pytest.approx(long.nll[name], abs=1e-5)
    assert (first.full + second.full) / 2 == pytest.approx(long.full, abs=1e-5)


def test_contenders_and_full_read_the_same_tokens(workspace, texts_file, monkeypatch):
    """One token off and every figure would be of another place."""
    read = []

    class Watching:
        def __init__(self, tokens):
            self.tokens = list(tokens)

        def read(self, tokens):
            self.tokens += list(tokens)

        def score_tokens(self, tokens):
            read.append((self.tokens, list(tokens)))
            return np.zeros(len(tokens))

    class Opener:
        def open(self, workspace, sample):
            return Watching(sample.history.tokens[: sample.read])

    whole = []

    def full(base, tokens, last):
        whole.append((list(tokens[:-last]), list(tokens[-last:])))
        return np.zeros(last)

    monkeypatch.setitem(evaluate_nll.__globals__, "CONTENDERS", {"ours": Opener()})
    monkeypatch.setitem(evaluate_nll.__globals__, "full_history_nll", full)
    (text, *_) = load_texts(texts_file)
    options = NLLOptions((96,), horizon=30, pieces=2, length=317, lead=3)
    evaluate_nll(workspace, [text], ["ours"], options)
    assert read == whole
    assert len(read) == 2
    document = list(workspace.base.tokenizer.encode(text.text))
    assert read[0][0] + read[0][1] == document[: 280 + 30]


def test_mean_gists_differ_from_other_gists_alone(workspace, config_text, texts_file):
    from megacontext.core.config import parse_config
    from megacontext.core.evaluation.sessions.workspace import EvalWorkspace

    texts = load_texts(texts_file)[:1]
    options = NLLOptions((96,), horizon=32, pieces=1, length=320)
    (same,) = evaluate_nll(workspace, texts, ["ours", "mean"], options)
    assert same.nll["ours"] == same.nll["mean"]
    other = EvalWorkspace.load(parse_config(config_text, ["gist.kind=token"]))
    (piece,) = evaluate_nll(other, texts, ["ours", "mean"], options)
    assert piece.nll["ours"] != piece.nll["mean"]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (NLLOptions((128,), horizon=64, length=600), ConfigError, "--length 600"),
        (NLLOptions((448,), horizon=64), ConfigError, "--w-max 448"),
        (NLLOptions((128,), horizon=200), ConfigError, "--horizon 200"),
        (NLLOptions((16,), horizon=64), ConfigError, "w_max is 16"),
    ],
)
def test_impossible_lengths_are_refused(workspace, texts_file, options, error, says):
    with pytest.raises(error, match=says):
        evaluate_nll(workspace, load_texts(texts_file), ["ours"], options)


def test_texts_that_are_too_short_have_no_piece(workspace):
    assert evaluate_nll(workspace, [Text("a", "", "short")], ["ours"], NLLOptions((128,))) == []


def test_the_summary_is_the_arithmetic_of_its_definition():
    pieces = [
        Piece("a", "code", 0, 512, 2.0, {"ours": 2.1, "delete": 2.4}),
        Piece("a", "code", 9, 512, 2.0, {"ours": 2.3, "delete": 2.4}),
        Piece("b", "docs", 0, 512, 1.0, {"ours": 1.2, "delete": 1.6}),
        Piece("a", "code", 0, 1024, 2.0, {"ours": 2.0, "delete": 2.0}),
    ]
    ours = summarize_nll(pieces, 0)["ours"].to_json()
    assert ours["w_max"] == 512
    assert ours["delta_nll"] == pytest.approx(0.2)  # documents count equally
    assert ours["delta_nll_p95"] == pytest.approx(0.29)
    # Document means: full 1.5, ours 1.7, delete 2.0.
    assert ours["recovered_gain"] == pytest.approx(0.6)
    assert (ours["count"], ours["documents"]) == (3, 2)
    assert ours["by_document"] == pytest.approx({"a": 0.2, "b": 0.2})
    assert ours["by_domain"]["docs"]["delta_nll"] == pytest.approx(0.2)
    wide = ours["by_w_max"]["1024"]
    assert (wide["delta_nll"], wide["recovered_gain"], wide["interval"]) == (0.0, None, None)


def test_a_single_replaced_block_is_scored_behind_it(workspace, texts_file):
    pieces = evaluate_single(workspace, load_texts(texts_file)[:2], 2, horizon=16)
    assert [p.document for p in pieces] == ["one", "one", "two", "two"]
    for piece in pieces:
        assert piece.nll["gist"] == piece.nll["mean"]  # this workspace's gists are means
        assert piece.nll["gist"] != piece.nll["delete"]
        assert all(abs(v - piece.full) < 0.5 for v in piece.nll.values())


def test_a_paired_difference_is_over_the_pieces_that_both_have():
    def piece(document, start, ours):
        return Piece(document, "", start, 512, 1.0, {"ours": ours})

    variant = [piece("a", 0, 2.0), piece("a", 9, 2.4), piece("b", 0, 3.0), piece("c", 0, 9.0)]
    reference = [piece("a", 0, 1.9), piece("a", 9, 2.1), piece("b", 0, 3.1)]
    difference = paired_difference(variant, reference, "ours", 0)
    assert difference.value == pytest.approx((0.2 - 0.1) / 2)  # documents count equally
    assert difference.count == 3
    assert difference.interval[0] <= difference.value <= difference.interval[1]
    assert paired_difference(variant[3:], reference, "ours", 0) is None
