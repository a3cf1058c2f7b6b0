"""A rolling refresh: in chunks, across appends and edits, and when it starts."""

import pytest
import torch

from megacontext.core.model import KVWindow
from megacontext.traces.schema import KVMode

W_MAX = 64


def edited(window, text):
    """A window of some 25 rows whose second entry was collapsed."""
    window.append(text.take(28))
    text.frontier[1] = (1, 1)
    return window.sync(text.layout(), text.vectors, text.tokens)


def same_as_exact(base, text, window, recompute):
    expected = recompute(base, text, window)[-1]
    return torch.allclose(window.last.logits[-1], expected, atol=1e-4, rtol=0)


def test_a_refresh_takes_one_chunk_before_each_append_and_ends_exact(
    tiny_model, history, recompute
):
    base, text = tiny_model("smollm3"), history()
    window = KVWindow(base, W_MAX, "splice", refresh_every=29, refresh_chunk=8)
    stats = edited(window, text)
    assert (stats.mode, stats.drift) == (KVMode.SPLICE, None)
    assert window.exact_rows == 5  # block 0 and the new gist
    window.append(text.take(1))  # the 29th token starts it
    progress = [window.exact_rows]
    while window.exact_rows < len(window):
        window.append(text.take(1))
        progress.append(window.exact_rows)
    assert progress == [5, 13, 21, 29]  # the last append found every row before it exact
    assert same_as_exact(base, text, window, recompute)
    text.frontier[0] = (1, 0)
    assert window.sync(text.layout(), text.vectors, text.tokens).mode is KVMode.REFRESH


def test_an_edit_during_a_refresh_sends_it_back_to_the_first_changed_row(
    tiny_model, history, recompute
):
    base, text = tiny_model("llama"), history()
    window = KVWindow(base, W_MAX, "splice", refresh_every=29, refresh_chunk=10)
    edited(window, text)
    window.append(text.take(1))
    window.append(text.take(1))
    assert window.exact_rows == 15
    text.frontier[2] = (1, 2)
    stats = window.sync(text.layout(), text.vectors, text.tokens)
    assert stats.mode is KVMode.REFRESH
    assert window.exact_rows == 6  # block 0, the old gist and the new one
    while window.exact_rows < len(window):
        window.append(text.take(1))
    assert same_as_exact(base, text, window, recompute)


def test_drift_beyond_its_bound_starts_a_refresh(tiny_model, history):
    text = history()
    window = KVWindow(
        tiny_model("llama"), W_MAX, "splice", drift_every=1, drift_bound=1e-9, refresh_chunk=100
    )
    stats = edited(window, text)
    assert stats.drift is not None
    assert stats.drift > 1e-9
    window.append(text.take(1))
    assert window.exact_rows == len(window)


def test_drift_below_its_bound_starts_none(tiny_model, history):
    text = history()
    window = KVWindow(
        tiny_model("llama"), W_MAX, "splice", drift_every=1, drift_bound=1e9, refresh_chunk=100
    )
    assert edited(window, text).drift is not None
    window.append(text.take(1))
    assert window.exact_rows < len(window)


def test_drift_is_sampled_every_so_many_edits(tiny_model, history):
    text = history()
    window = KVWindow(tiny_model("llama"), W_MAX, "splice", drift_every=3)
    window.append(text.take(28))
    sampled = []
    for block in range(6):
        text.frontier[block] = (1, block)
        sampled.append(window.sync(text.layout(), text.vectors, text.tokens).drift is not None)
    assert sampled == [False, False, True, False, False, True]


@pytest.mark.parametrize("option", ["refresh_every", "drift_every"])
def test_exact_mode_never_drifts_and_never_refreshes(tiny_model, history, option):
    text = history()
    window = KVWindow(tiny_model("llama"), W_MAX, "exact", **{option: 1})
    stats = edited(window, text)
    assert (stats.mode, stats.drift) == (KVMode.EXACT, None)
    assert window.refresh() == 0
