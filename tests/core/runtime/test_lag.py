"""An edit that waits (focus.lag): the window follows a closed block's refocus some tokens later."""

import numpy as np
import pytest
from recorded import rows_of

from megacontext.core.config import parse_config
from megacontext.core.model import KVWindow
from megacontext.core.runtime.build import build_parts
from megacontext.core.runtime.run import run
from megacontext.core.runtime.session import Session
from megacontext.core.runtime.sinks import NullSink
from megacontext.core.runtime.socket_controller import set_knob
from megacontext.core.verify import verify
from megacontext.traces.errors import ConfigError
from megacontext.traces.schema import Trigger

LAG = 3
SETTINGS = [f"focus.lag={LAG}", "lens.kind=random", "source.max_tokens=200"]


@pytest.fixture
def syncs(monkeypatch):
    """(history, fused) of every time that a window followed a layout."""
    seen, sync = [], KVWindow.sync

    def noted(self, layout, vectors, tokens, reread=0, fuse=False):
        seen.append((layout.n_tokens, fuse))
        return sync(self, layout, vectors, tokens, reread, fuse)

    monkeypatch.setattr(KVWindow, "sync", noted)
    return seen


def session_of(config_text, *settings):
    parts = build_parts(parse_config(config_text, [*SETTINGS, *settings]))
    session = Session(parts, NullSink())
    session.append(np.resize(parts.base.tokenizer.encode("abc def gh "), 400).astype(np.uint32))
    return session


@pytest.mark.parametrize("settings", [[], ["kv={mode: exact}"], ["gist.kind=token"]])
def test_every_invariant_holds_and_the_trace_is_decided_again(
    config_text, tmp_path, plain, settings
):
    text = config_text.replace("decode_tokens: 24", "decode_tokens: 100")
    config = parse_config(text, [*SETTINGS, *settings])
    first, again = (run(config, tmp_path / name, control=False).trace for name in ("a", "b"))

    plain.check_trace(first)
    report = verify(first, again)
    assert report.ok, report.problems
    rows = rows_of(first)
    assert report.rerun == len(rows)
    block_ends = [r for r in rows if r.trigger == Trigger.BLOCK_CLOSED and r.round == 0]
    assert all(r.w_max - r.budget_used >= 8 for r in block_ends)


def test_the_window_follows_so_many_tokens_later_in_one_forward(config_text, syncs):
    session = session_of(config_text)
    session.decode(40)
    edits = [(n, fused) for n, fused in syncs if n > 400]
    assert edits == [(n + LAG, True) for n in (408, 416, 424, 432)]
    session.parts.close()


def test_what_an_edit_computed_stands_in_the_next_row(config_text, tmp_path):
    text = config_text.replace("decode_tokens: 24", "decode_tokens: 41")
    settings = [*SETTINGS, "gist.kind=token", "focus.tau_expand=0", "focus.tau_collapse=0"]
    rows = rows_of(run(parse_config(text, settings), tmp_path / "t.arrow", control=False).trace)
    steps = [r.step for r in rows if r.history_tokens > 200]
    computed = [sum(r.kv_rows for r in rows if r.step == step) for step in dict.fromkeys(steps)]
    assert computed[0] == 0  # its edit comes with the fourth token of the next row
    assert max(computed[1:-1]) > 0


def test_a_question_never_waits(config_text, syncs):
    session = session_of(config_text)
    tokens = session.parts.base.tokenizer.encode("gh abc")
    session.decode(9)  # one token behind the end of a block
    syncs.clear()
    session.append_question(tokens, Trigger.QUESTION)
    assert syncs[0] == (409, False)  # before the question is read
    assert syncs[-1] == (409 + len(tokens), False)
    window, context = session.parts.window, session.context
    raw = 8 * np.count_nonzero(context.levels == 0) + context.tail_tokens
    assert len(window) == raw
    session.parts.close()


@pytest.mark.parametrize("cut", [LAG - 1, LAG + 2])
def test_a_run_that_was_cut_while_an_edit_waits_goes_on_as_the_unbroken_one(
    config_text, tmp_path, monkeypatch, cut
):
    text = config_text.replace("decode_tokens: 24", "decode_tokens: 60")
    settings = [*SETTINGS, "lens.kind=bm25", "kv={mode: exact}", "focus.n_diff=8"]
    settings += ["gist.kind=mean", "tree.storage=disk"]

    def decode(name, resume=False):
        config = parse_config(text, [*settings, f"tree.path={tmp_path / name}.tree"])
        return rows_of(run(config, tmp_path / f"{name}.arrow", resume=resume, control=False).trace)

    whole = decode("whole")
    sample, count = Session._sample_token, iter(range(1000))

    def killed(self, left):
        if next(count) == 16 + cut:
            raise KeyboardInterrupt
        return sample(self, left)

    monkeypatch.setattr(Session, "_sample_token", killed)
    with pytest.raises(KeyboardInterrupt):
        decode("cut")
    monkeypatch.setattr(Session, "_sample_token", sample)
    resumed = decode("cut", resume=True)

    assert verify(tmp_path / "cut.arrow").ok
    tokens, nll, actions = (
        [np.concatenate([getattr(r, name) for r in rows]) for rows in (whole, resumed)]
        for name in ("new_tokens", "new_nll", "actions")
    )
    assert np.array_equal(*tokens)
    assert np.array_equal(*actions)
    np.testing.assert_allclose(*nll, atol=1e-4)


def test_a_lag_of_a_block_is_refused(config_text):
    refused = pytest.raises(ConfigError, match=r"focus\.lag is 8; it must be below block_size 8")
    with refused:
        parse_config(config_text, ["focus.lag=8"])
    session = session_of(config_text)
    with refused:
        set_knob(session, "focus.lag", 8)
    set_knob(session, "focus.lag", 7)
    assert session.focus_config.lag == 7
    session.parts.close()
