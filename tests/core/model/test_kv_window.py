"""The window follows any sequence of edits, in both modes and all position modes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.core.model import KVWindow
from megacontext.core.model.layout import layout_rows
from megacontext.core.model.positions import POSITION_MODES
from megacontext.traces.errors import ModelError, PlanError
from megacontext.traces.schema import KVMode

W_MAX = 64
BLOCK = 4
TOLERANCE = 1e-4

steps = st.lists(
    st.tuples(st.integers(1, BLOCK), st.lists(st.integers(0, 10_000), max_size=3)),
    min_size=1,
    max_size=12,
)


def play(window, history, drawn, check):
    """Append and edit as drawn, staying inside the budget; ``check`` after every sync."""
    for count, edits in drawn:
        while history.cost() + count > W_MAX:
            history.edit(0, 0)
        window.sync(history.layout(), history.vectors, history.tokens)
        window.append(history.take(count))
        for pick in edits:
            history.edit(pick, W_MAX - history.cost())
        stats = window.sync(history.layout(), history.vectors, history.tokens)
        check(stats)


@pytest.mark.parametrize("positions", POSITION_MODES)
@pytest.mark.parametrize("kind", ["llama", "yarn", "smollm3", "qwen3"])
@settings(max_examples=8)
@given(drawn=steps)
def test_exact_mode_equals_a_full_recompute_after_any_edits(
    tiny_model, history, recompute, kind, positions, drawn
):
    base, text = tiny_model(kind), history()
    window = KVWindow(base, W_MAX, "exact", positions)

    def check(_stats):
        expected = recompute(base, text, window)[-1]
        torch.testing.assert_close(window.last.logits[-1], expected, atol=TOLERANCE, rtol=0)

    play(window, text, drawn, check)


@settings(max_examples=8)
@given(drawn=steps)
def test_a_model_with_learned_positions_runs_exact(tiny_model, history, recompute, drawn):
    base, text = tiny_model("gpt2"), history()
    window = KVWindow(base, W_MAX, "splice")
    assert window.mode is KVMode.EXACT
    assert "does not rotate its keys" in window.notes[0]

    def check(stats):
        assert stats.mode is KVMode.EXACT
        expected = recompute(base, text, window)[-1]
        torch.testing.assert_close(window.last.logits[-1], expected, atol=TOLERANCE, rtol=0)

    play(window, text, drawn, check)


@pytest.mark.parametrize("positions", POSITION_MODES)
@pytest.mark.parametrize("kind", ["llama", "llama3", "smollm3", "qwen3"])
@settings(max_examples=6)
@given(drawn=steps)
def test_a_refresh_brings_splice_to_the_exact_value(
    tiny_model, history, recompute, kind, positions, drawn
):
    base, text = tiny_model(kind), history()
    window = KVWindow(base, W_MAX, "splice", positions, refresh_chunk=5)
    play(window, text, drawn, lambda stats: None)
    window.refresh()
    tokens = text.take(1)
    if text.cost() > W_MAX:
        return
    logits = window.append(tokens).logits
    expected = recompute(base, text, window)[-1]
    torch.testing.assert_close(logits[-1], expected, atol=TOLERANCE, rtol=0)
    assert window.exact_rows == len(window)
    assert window.drift() == 0.0


@pytest.mark.parametrize("mode", ["exact", "splice"])
@settings(max_examples=15)
@given(drawn=steps)
def test_the_cache_holds_exactly_the_live_entries(tiny_model, history, mode, drawn):
    text = history()
    window = KVWindow(tiny_model("llama"), W_MAX, mode)

    def check(_stats):
        assert window.row_keys.tolist() == layout_rows(text.layout()).keys.tolist()
        assert len(set(window.row_slots.tolist())) == len(window)
        assert (np.diff(window.row_positions) > 0).all()
        orders = window.cache.orders.numpy()
        assert orders[window.row_slots].tolist() == list(range(len(window)))
        assert (orders >= 0).sum() == len(window) == text.cost()

    play(window, text, drawn, check)


@settings(max_examples=15)
@given(drawn=steps)
def test_kept_rows_keep_their_slots_and_only_inserted_inputs_are_fetched(
    tiny_model, history, drawn
):
    text = history()
    window = KVWindow(tiny_model("llama"), W_MAX, "splice")
    for count, edits in drawn:
        while text.cost() + count > W_MAX:
            text.edit(0, 0)
        window.sync(text.layout(), text.vectors, text.tokens)
        window.append(text.take(count))
        before = dict(zip(window.row_keys.tolist(), window.row_slots.tolist(), strict=True))
        for pick in edits:
            text.edit(pick, W_MAX - text.cost())
        text.asked.clear()
        stats = window.sync(text.layout(), text.vectors, text.tokens)
        after = dict(zip(window.row_keys.tolist(), window.row_slots.tolist(), strict=True))
        assert all(after[key] == slot for key, slot in before.items() if key in after)
        inserted = after.keys() - before.keys()
        assert len(text.asked) == len(inserted)
        if after.keys() == before.keys():
            assert stats.rows == 0
        else:  # the inserted rows and the newest one
            newest = window.row_keys[-1]
            assert stats.rows == len(inserted | {newest})


@pytest.mark.parametrize("kind", ["llama", "smollm3", "qwen3", "gpt2"])
def test_appended_logits_equal_a_plain_forward(tiny_model, history, kind):
    base, text = tiny_model(kind), history()
    window = KVWindow(base, W_MAX, "exact")
    ids = text.take(30)
    got = [window.append(ids[:11]), window.decode(int(ids[11])), window.append(ids[12:])]
    out = base.module(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
    logits = torch.cat([g.logits for g in got])
    torch.testing.assert_close(logits, out.logits[0], atol=TOLERANCE, rtol=0)
    hidden = base.module.get_output_embeddings()(torch.cat([g.hidden for g in got]))
    torch.testing.assert_close(hidden, logits, atol=TOLERANCE, rtol=0)


def test_a_block_that_closes_costs_nothing(tiny_model, history):
    text = history()
    window = KVWindow(tiny_model("llama"), W_MAX, "splice")
    window.append(text.take(7))
    window.sync(text.layout(), text.vectors, text.tokens)
    slots = window.row_slots.copy()
    window.append(text.take(1))
    stats = window.sync(text.layout(), text.vectors, text.tokens)
    assert (stats.rows, stats.shifted) == (0, 0)
    assert window.row_slots[:7].tolist() == slots.tolist()


def test_a_cold_start_in_splice_mode_is_exact(tiny_model, history, recompute):
    base, text = tiny_model("smollm3"), history()
    text.take(150)
    text.frontier = [(3, 0), (3, 1), (1, 32), (1, 33), (0, 34), (0, 35), (0, 36)]
    window = KVWindow(base, W_MAX, "splice")
    stats = window.sync(text.layout(), text.vectors, text.tokens)
    assert stats.rows == len(window) == window.exact_rows
    torch.testing.assert_close(
        window.last.logits[-1], recompute(base, text, window)[-1], atol=TOLERANCE, rtol=0
    )


def test_splice_computes_inserted_rows_against_the_edited_window(tiny_model, history, recompute):
    """With nothing after the edit but the newest row, splice is exact."""
    base, text = tiny_model("llama"), history()
    window = KVWindow(base, W_MAX, "splice")
    window.append(text.take(8))
    text.frontier[1] = (1, 1)
    window.sync(text.layout(), text.vectors, text.tokens)
    window.append(text.take(1))
    text.frontier[1] = (0, 1)
    stats = window.sync(text.layout(), text.vectors, text.tokens)
    assert stats.rows == BLOCK + 1
    torch.testing.assert_close(
        window.last.logits[-1], recompute(base, text, window)[-1], atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("runner", ["hf", "torch"])
@pytest.mark.parametrize("kind", ["llama", "yarn", "mistral", "smollm3", "qwen2", "qwen3"])
def test_fused_rows_equal_rows_of_a_pass_of_their_own(tiny_model, history, kind, runner):
    text = history()
    plain, fused = (KVWindow(tiny_model(kind), W_MAX, runner=runner) for _ in range(2))
    for pick in range(12):
        tokens = text.take(1 + pick % 3)
        results = [window.append(tokens) for window in (plain, fused)]
        for name in ("logits", "hidden"):
            one, other = (getattr(result, name) for result in results)
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        text.edit(pick * 7, W_MAX - text.cost())
        stats = [
            w.sync(text.layout(), text.vectors, text.tokens, fuse=True) for w in (plain, fused)
        ]
        assert stats[0] == stats[1]
        plain.finish()
    assert np.array_equal(plain.row_positions, fused.row_positions)


def test_fused_rows_take_no_forward_of_their_own(tiny_model, history, monkeypatch):
    text = history()
    window = KVWindow(tiny_model("llama"), W_MAX)
    window.append(text.take(24))
    text.edit(0, 0)
    last = window.last
    batches, run = [], window.runner.run
    monkeypatch.setattr(
        window.runner, "run", lambda slots, *rest: batches.append(len(slots)) or run(slots, *rest)
    )
    stats = window.sync(text.layout(), text.vectors, text.tokens, fuse=True)
    assert stats.rows > 0
    assert batches == []
    assert window.last is last

    window.append(text.take(1))
    assert batches == [stats.rows + 1]
    assert window.last is not last


@pytest.mark.parametrize("use", ["sync", "drift", "refresh"])
def test_whatever_needs_fused_rows_computes_them_first(tiny_model, history, use):
    text = history()
    plain, fused = (KVWindow(tiny_model("llama"), W_MAX) for _ in range(2))
    tokens = text.take(24)
    for window in (plain, fused):
        window.append(tokens)
    text.edit(0, 0)
    for window in (plain, fused):
        window.sync(text.layout(), text.vectors, text.tokens, fuse=True)
    plain.finish()
    for window in (plain, fused):
        if use == "sync":
            window.sync(text.layout(), text.vectors, text.tokens, reread=4)
        else:
            getattr(window, use)()
    slots = plain.row_slots
    torch.testing.assert_close(plain.cache.keys[:, :, slots], fused.cache.keys[:, :, slots])
    torch.testing.assert_close(plain.last.logits, fused.last.logits)


def test_the_drift_of_a_fused_edit_is_measured_when_its_rows_are_there(tiny_model, history):
    text = history()
    window = KVWindow(tiny_model("llama"), W_MAX, drift_every=1)
    window.append(text.take(40))
    drifts = []
    for pick in range(6):
        text.edit(pick * 7, W_MAX - text.cost())
        drifts.append(window.sync(text.layout(), text.vectors, text.tokens, fuse=True).drift)
        window.append(text.take(1))
    assert drifts[0] is None  # of the edit before the first
    assert max(drift for drift in drifts[1:] if drift is not None) > 1e-6


def test_splice_keeps_later_rows_as_they_are(tiny_model, history, recompute):
    """Later rows still hold what they saw before the edit, so splice differs from exact."""
    base, text = tiny_model("llama"), history()
    window = KVWindow(base, W_MAX, "splice")
    window.append(text.take(30))
    text.edit(0, 0)
    window.sync(text.layout(), text.vectors, text.tokens)
    assert window.exact_rows == 1
    exact = recompute(base, text, window)[-1]
    assert (window.last.logits[-1] - exact).abs().max() > TOLERANCE
    divergence = torch.nn.functional.kl_div(
        window.last.logits[-1].log_softmax(-1),
        exact.log_softmax(-1),
        log_target=True,
        reduction="sum",
    )
    assert window.drift() == pytest.approx(float(divergence), rel=1e-3)


def test_measuring_the_drift_changes_nothing(tiny_model, history):
    text = history()
    window = KVWindow(tiny_model("qwen3"), W_MAX, "splice")
    window.append(text.take(30))
    text.edit(0, 0)
    window.sync(text.layout(), text.vectors, text.tokens)
    live = torch.from_numpy(window.row_slots.copy())
    before = [t[:, :, live].clone() for t in (window.cache.keys, window.cache.values)]
    logits = window.last.logits.clone()
    assert window.drift() > 0
    after = [t[:, :, live] for t in (window.cache.keys, window.cache.values)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(window.last.logits, logits)
    assert window.exact_rows == 1


def test_appending_beyond_the_budget_is_refused_before_anything_changes(tiny_model, history):
    text = history()
    window = KVWindow(tiny_model("llama"), 8)
    window.append(text.take(8))
    keys = window.row_keys.copy()
    with pytest.raises(PlanError, match="8 rows, w_max is 8"):
        window.append(text.take(1))
    assert window.row_keys.tolist() == keys.tolist()


def test_a_layout_beyond_the_budget_is_refused(tiny_model, history):
    text = history()
    text.take(12)
    window = KVWindow(tiny_model("llama"), 8)
    with pytest.raises(PlanError, match="12 rows exceeds w_max 8"):
        window.sync(text.layout(), text.vectors, text.tokens)


def test_an_older_layout_is_refused(tiny_model, history):
    text = history()
    window = KVWindow(tiny_model("llama"), W_MAX)
    window.append(text.take(4))
    old = text.layout()
    window.append(text.take(4))
    with pytest.raises(PlanError, match="older than the window"):
        window.sync(old, text.vectors, text.tokens)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"w_max": 1000}, "w_max is 1000 but model 'llama' was trained on 512"),
        ({"mode": "fast"}, "kv.mode is 'fast', use exact or splice"),
        ({"positions": "far"}, "positions is 'far', use packed, global, gap"),
        ({"runner": "quick"}, "runner is 'quick', use auto, hf, torch, graph"),
        ({"runner": "graph"}, "runner is 'graph' but the model is on cpu"),
    ],
)
def test_impossible_windows_are_refused_in_one_sentence(tiny_model, arguments, message):
    with pytest.raises(ModelError, match=message) as error:
        KVWindow(tiny_model("llama"), **({"w_max": W_MAX} | arguments))
    assert "\n" not in str(error.value)


def test_global_positions_need_a_model_without_learned_positions(tiny_model):
    with pytest.raises(ModelError, match="positions is 'global' but model 'gpt2'"):
        KVWindow(tiny_model("gpt2"), W_MAX, "exact", "global")


def test_a_reset_window_starts_anew(tiny_model, history):
    text = history()
    window = KVWindow(tiny_model("llama"), W_MAX)
    first = window.append(text.take(9)).logits
    window.reset()
    assert len(window) == 0
    torch.testing.assert_close(window.append(text.ids[:9]).logits, first)
