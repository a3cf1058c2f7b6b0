"""Where a score comes from: BM25 from the trace's own tokens, or what the lens recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megacontext.core.lenses.bm25 import BM25
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import PAIR_DTYPE
from megacontext.traces.token_index import TokenIndex
from megacontext.traces.writer import TraceWriter
from megacontext.tui.render.inspector import draw_inspector
from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.sources.row_reader import row_model, score_pairs
from megacontext.tui.state.score_explanation import Pair, bm25, recorded, strongest
from megacontext.tui.state.view import Node
from megacontext.tui.state.viewer import ViewerState


@pytest.fixture
def index(small_trace: Path):
    reader = TraceReader.open(small_trace)
    found = TokenIndex(reader)
    while not found.advance(lambda: True):
        pass
    yield found, reader
    reader.close()


def test_the_index_holds_the_tokens_of_the_rows(index) -> None:
    found, reader = index
    tokens = np.concatenate([reader.row(n).new_tokens for n in range(reader.num_rows)])
    assert np.array_equal(found.tokens(0, len(tokens)), tokens)
    size = reader.meta.block_size
    for word in tokens[:5]:
        blocks = {int(p) // size for p in np.flatnonzero(tokens == word)}
        assert found.holding(np.array([word]), 10)[0] == len([b for b in blocks if b < 10])


def test_the_terms_sum_to_what_the_bm25_lens_gives_the_block(index) -> None:
    found, reader = index
    number, size, queries = reader.num_rows - 1, reader.meta.block_size, 32
    row = row_model(reader.row(number), number, size)
    known = (row.history - queries) // size
    lens = BM25()
    lens._postings.add(found.tokens(0, known * size).reshape(-1, size).astype(np.uint32))
    totals = lens._bm25(found.tokens(row.history - queries, row.history).astype(np.int64))
    assert totals.max() > 0
    for block in np.argsort(-totals)[:4].tolist():
        told = bm25(found, row, Node(1, block), queries)
        assert told.total == pytest.approx(float(totals[block]), rel=1e-5)
        for pair in told.pairs:
            assert found.tokens(pair.query_token, pair.query_token + 1) == found.tokens(
                pair.block_token, pair.block_token + 1
            )
    coarse = Node(2, int(totals.argmax()) // size)
    best = totals[coarse.index * size : (coarse.index + 1) * size]
    assert bm25(found, row, coarse, queries).total == pytest.approx(float(best.max()), rel=1e-5)


def test_a_block_of_the_query_itself_is_no_evidence(index) -> None:
    found, reader = index
    number, size = reader.num_rows - 1, reader.meta.block_size
    row = row_model(reader.row(number), number, size)
    assert not bm25(found, row, Node(1, row.history // size - 1), 4 * size).pairs


def test_the_inspector_lists_what_the_query_met(small_trace: Path, clock) -> None:
    session = ViewerState(FileSource(small_trace), clock, unhurried=True)
    session.seek(session.source.num_rows - 1)
    index = session.source.token_index(lambda: False)
    assert index is not None
    row = session.row
    assert row is not None
    nodes = [Node(1, block) for block in range(row.history // row.block_size)]
    best = max(nodes, key=lambda node: bm25(index, row, node, 32).total)
    session.look(lambda view: view.select(best))
    session.drill()
    session.drill()
    session.tick()
    text = "\n".join(draw_inspector(session.frame(), 60, 40).lines())
    assert "What the query met" in text
    told = session.frame().explanation
    assert told is not None
    assert told.text(told.pairs[0].query_token).strip() in text
    session.seek(3)
    assert session.frame().explanation is None  # that of another row is not shown


def test_what_a_lens_recorded_wins_and_names_its_heads(story, clock) -> None:
    source = story()
    source.pairs[36, Node(1, 5)] = (
        Pair(290, 45, 0.7, "3.11"),
        Pair(291, 46, 0.2, "3.11"),
        Pair(291, 45, 0.1, "3.11"),
    )
    session = ViewerState(source, clock, unhurried=True)
    session.look(lambda view: view.drill(session.history, 8).drill(session.history, 8))
    session.tick()
    text = "\n".join(draw_inspector(session.frame(), 60, 40).lines())
    assert "recorded by the lens" in text
    assert "␣number → ␣number" in text or "3.11" in text


def test_each_query_token_is_listed_once_by_its_strongest_pair() -> None:
    pairs = [Pair(1, 10, 0.1, "a"), Pair(1, 11, 0.9, "a"), Pair(2, 10, 0.5, "a")]
    assert [(p.query_token, p.block_token) for p in strongest(pairs)] == [(1, 11), (2, 10)]


def test_pairs_are_read_from_a_trace(small_trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.arrow"
    pairs = np.array([(4, 90, 35, 17, 5, 0.5), (40, 91, 330, 18, 6, 0.25)], PAIR_DTYPE)
    with TraceReader.open(small_trace) as reader:
        meta = {k.decode(): v.decode() for k, v in reader.schema.metadata.items()}
        with TraceWriter(path, meta) as writer:
            for number, row in enumerate(reader.rows()):
                writer.put(replace(row, score_pairs=pairs if number == 1 else pairs[:0]))
    with TraceReader.open(path) as reader:
        assert [row.step for row in reader.rows() if len(row.score_pairs)]
        assert score_pairs(reader, 0, Node(1, 4), 8) == ()
        assert score_pairs(reader, 1, Node(1, 4), 8) == (Pair(90, 35, 0.5, "head 17.5"),)
        assert score_pairs(reader, 1, Node(0, 4), 8) == (Pair(90, 35, 0.5, "head 17.5"),)
        assert score_pairs(reader, 1, Node(2, 5), 8) == (Pair(91, 330, 0.25, "head 18.6"),)
        assert score_pairs(reader, 1, Node(1, 5), 8) == ()


@pytest.mark.parametrize(("width", "height"), [(40, 15), (58, 15)])
def test_a_low_pane_names_the_strongest_pairs_in_two_lines(
    story, clock, width: int, height: int
) -> None:
    source = story()
    source.pairs[36, Node(1, 5)] = (Pair(290, 45, 0.7, "3.11"), Pair(291, 46, 0.2, "3.11"))
    session = ViewerState(source, clock, unhurried=True)
    session.look(lambda view: view.drill(session.history, 8).drill(session.history, 8))
    session.tick()
    lines = draw_inspector(session.frame(), width, height).lines()
    text = " ".join(" ".join(lines).split())
    told = session.frame().explanation
    assert told is not None
    pair = told.pairs[0]
    assert f"The query met ␣{told.text(pair.query_token).strip()} → " in text
    assert "0.70" in text
    assert any("36 + +.90" in line for line in lines), "what happened to it has room, too"


def test_heads_that_matched_the_same_tokens_share_a_line() -> None:
    pairs = [
        Pair(90, 35, 0.05, "head 18.7"),
        Pair(91, 36, 0.04, "head 18.7"),
        Pair(91, 36, 0.03, "head 17.3"),
    ]
    told = recorded(Node(1, 4), pairs, 8)
    assert [(p.query_token, p.block_token, p.label) for p in told.pairs] == [
        (91, 36, "heads 18.7, 17.3"),
        (90, 35, "head 18.7"),
    ]
    assert told.pairs[0].weight == pytest.approx(0.07)
    assert told.total == pytest.approx(0.12)
