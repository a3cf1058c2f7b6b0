"""Bulk reading: chunks of many blocks, one forward and one refocus each, no invariant broken."""

import numpy as np
import pytest
from recorded import rows_of

from megacontext.core.config import parse_config
from megacontext.core.focus import WorkingContext
from megacontext.core.runtime.build import build_parts
from megacontext.core.runtime.reader import bulk_tokens
from megacontext.core.runtime.run import run
from megacontext.core.runtime.session import Session
from megacontext.core.runtime.sinks import NullSink
from megacontext.core.verify import verify
from megacontext.traces.schema import Trigger

CHUNK = "ingest.chunk=48"


def timeless(rows):
    """What rows say beside times."""
    numbers = [(r.step, r.round, r.trigger, r.budget_used) for r in rows]
    arrays = [(r.new_tokens, r.levels, r.actions, r.scores) for r in rows]
    return numbers, [[np.asarray(a).tobytes() for a in row] for row in arrays]


@pytest.mark.parametrize("nll", ["true", "false"])
@pytest.mark.parametrize("lens", ["recency", "random", "bm25", "attention"])
def test_every_invariant_holds_and_the_trace_is_decided_again(
    config_text, tmp_path, plain, lens, nll
):
    config = parse_config(config_text, [CHUNK, f"ingest.nll={nll}", f"lens.kind={lens}"])
    result = run(config, tmp_path / "t.arrow", control=False)

    plain.check_trace(result.trace)
    report = verify(result.trace)
    assert report.ok, report.problems
    rows = rows_of(result.trace)
    assert report.rerun == len(rows)
    text = np.concatenate([row.new_tokens for row in rows])
    assert len(text) == 1500 + 24

    bulk = [row for row in rows if row.trigger == Trigger.BULK]
    assert sum(len(row.new_tokens) for row in bulk) > 1200
    assert max(len(row.new_tokens) for row in bulk) == 48
    assert np.mean([len(row.new_tokens) for row in bulk[1:]]) > 40  # room is made beforehand
    assert all(row.actions["forced"].all() for row in bulk)


def test_the_model_reads_the_same_text_with_as_good_a_prediction(config_text, tmp_path):
    def nll_of(*settings):
        config = parse_config(config_text, ["source.decode_tokens=0", *settings])
        out = run(config, tmp_path / "t.arrow", control=False).trace
        return np.concatenate([row.new_nll for row in rows_of(out)])

    by_block, by_chunk = nll_of(), nll_of(CHUNK)
    first = 48  # nothing is collapsed yet
    np.testing.assert_allclose(by_chunk[1:first], by_block[1:first], atol=1e-4)
    assert np.isfinite(by_chunk[1:]).all()
    assert by_chunk[1:].mean() == pytest.approx(by_block[1:].mean(), abs=0.05)


def test_text_that_is_not_read_at_once_is_read_before_a_token_is_sampled(config_text):
    parts = build_parts(parse_config(config_text, [CHUNK, "ingest.nll=false"]))
    session = Session(parts, NullSink())
    tokens = parts.base.tokenizer.encode("abc def gh " * 120)[:700]
    session.append(tokens)
    assert len(parts.window) == 0

    session.decode(1)
    context = parts.focus.working_context
    assert len(parts.window) == 8 * np.count_nonzero(context.levels == 0) + context.tail_tokens
    assert parts.window.exact_rows == len(parts.window)
    parts.close()


@pytest.mark.parametrize("nll", ["true", "false"])
def test_a_run_that_was_cut_between_two_chunks_goes_on_as_the_unbroken_one(
    config_text, tmp_path, nll
):
    settings = [CHUNK, f"ingest.nll={nll}", "kv={mode: exact}", "lens.kind=bm25"]
    text = config_text.replace("decode_tokens: 24", "decode_tokens: 0")

    def read(name, tokens, resume=False):
        config = parse_config(text, [*settings, f"source.max_tokens={tokens}"])
        return rows_of(run(config, tmp_path / name, resume=resume, control=False).trace)

    whole = read("whole.arrow", 1200)
    cut = read("cut.arrow", 704)
    assert timeless(cut[:-1]) == timeless(whole[: len(cut) - 1])
    resumed = read("cut.arrow", 1200, resume=True)
    assert verify(tmp_path / "cut.arrow").ok
    text_of = [np.concatenate([row.new_tokens for row in rows]) for rows in (whole, resumed)]
    assert np.array_equal(*text_of)


def test_a_session_without_chunks_reads_block_by_block(config_text, tmp_path):
    rows = rows_of(run(parse_config(config_text), tmp_path / "t.arrow", control=False).trace)
    assert max(len(row.new_tokens) for row in rows) <= 8
    assert not any(row.trigger == Trigger.BULK for row in rows)


@pytest.mark.parametrize(
    ("left", "chunk", "tail", "expected"),
    [
        (1000, 0, 0, 0),  # off
        (1000, 8, 0, 0),  # a block is read as a block
        (15, 64, 0, 0),  # one block and a bit
        (16, 64, 0, 16),
        (1000, 64, 0, 64),
        (1000, 64, 3, 61),  # up to a block's end
        (1000, 60, 0, 56),  # whole blocks
        (1000, 500, 0, 128),  # what the budget has room for
    ],
)
def test_a_chunk_is_whole_blocks_that_the_budget_holds(left, chunk, tail, expected):
    context = WorkingContext(block_size=8, max_levels=3, w_max=128, protected_blocks=2)
    context.append(tail)
    assert bulk_tokens(left, chunk, context) == expected
