"""Text behind a block that was opened later is read again when a question comes."""

import torch

from megacontext.core.model import KVWindow

W_MAX = 64


def opened(window, text):
    """28 tokens of which block 1 was a gist while blocks 2 to 6 were read, then was opened."""
    window.append(text.take(8))
    text.frontier[1] = (1, 1)
    window.sync(text.layout(), text.vectors, text.tokens)
    window.append(text.take(20))
    text.frontier[1] = (0, 1)


def values(window, count):
    """The newest rows' values in the cache."""
    _, (_, stored, _), *_ = window.cache.snapshot(window.row_slots[-count:])
    return stored


def same_as_exact(base, text, window, recompute):
    expected = recompute(base, text, window)[-1]
    return torch.allclose(window.last.logits[-1], expected, atol=1e-4, rtol=0)


def test_what_follows_an_opened_block_is_read_again_at_a_question(tiny_model, history, recompute):
    base, text = tiny_model("llama"), history()
    window = KVWindow(base, W_MAX, "splice")
    opened(window, text)
    stats = window.sync(text.layout(), text.vectors, text.tokens, reread=1)
    assert stats.rows == 4 + 20  # the block, and all that was read without it
    assert window.exact_rows == len(window)
    assert same_as_exact(base, text, window, recompute)


def test_other_edits_leave_it_marked_for_the_next_question(tiny_model, history, recompute):
    base, text = tiny_model("llama"), history()
    window = KVWindow(base, W_MAX, "splice")
    opened(window, text)
    stats = window.sync(text.layout(), text.vectors, text.tokens)
    assert stats.rows == 4 + 1  # the block and the newest row
    assert not same_as_exact(base, text, window, recompute)
    # Nothing changed since, and the question still finds the rows.
    window.sync(text.layout(), text.vectors, text.tokens, reread=1)
    assert same_as_exact(base, text, window, recompute)
    assert window.sync(text.layout(), text.vectors, text.tokens, reread=1).rows == 0


def test_an_opened_block_is_read_again_behind_one_that_opened_later(tiny_model, history):
    text = history()
    window = KVWindow(tiny_model("llama"), W_MAX, "splice")
    window.append(text.take(4))
    for block in range(1, 6):  # gists only, so that nothing but the opened blocks is stale
        window.append(text.take(4))
        text.frontier[block] = (1, block)
        window.sync(text.layout(), text.vectors, text.tokens)
    text.frontier[4] = (0, 4)
    window.sync(text.layout(), text.vectors, text.tokens)
    text.frontier[2] = (0, 2)
    stats = window.sync(text.layout(), text.vectors, text.tokens, reread=1)
    assert stats.rows == 4 + 4 + 1  # the block, the one that was opened before, the newest row


def test_a_drift_sample_leaves_the_marks_as_they_are(tiny_model, history, recompute):
    base, text = tiny_model("llama"), history()
    window = KVWindow(base, W_MAX, "splice")
    opened(window, text)
    window.sync(text.layout(), text.vectors, text.tokens)
    assert window.drift() > 0
    window.sync(text.layout(), text.vectors, text.tokens, reread=1)
    assert same_as_exact(base, text, window, recompute)


def test_text_behind_a_gist_is_not_marked(tiny_model, history):
    text = history()
    window = KVWindow(tiny_model("llama"), W_MAX, "splice")
    window.append(text.take(8))
    text.frontier[1] = (1, 1)
    window.sync(text.layout(), text.vectors, text.tokens)
    window.append(text.take(20))
    text.frontier[2] = (1, 2)
    window.sync(text.layout(), text.vectors, text.tokens)
    text.frontier[1] = (0, 1)
    stats = window.sync(text.layout(), text.vectors, text.tokens, reread=1)
    assert stats.rows == 4 + 1


def test_a_question_reads_its_own_newest_tokens_again(tiny_model, history):
    text = history()
    window = KVWindow(tiny_model("llama"), W_MAX, "splice")
    opened(window, text)
    text.frontier[2] = (1, 2)  # nothing raw stands right behind the opened block
    read = values(window, 6)
    stats = window.sync(text.layout(), text.vectors, text.tokens, reread=6)
    assert stats.rows == 4 + 1 + 6  # the block, the new gist, the newest tokens
    assert not torch.allclose(read, values(window, 6), atol=1e-6)
