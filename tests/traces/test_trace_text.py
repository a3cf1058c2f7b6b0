"""The text of a trace: by place, and found wherever it lies."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.traces.reader import TraceReader
from megacontext.traces.row import TraceRow
from megacontext.traces.token_index import TokenIndex
from megacontext.traces.writer import TraceWriter


def test_text_and_nll_come_back_by_token_position(write, arbitrary_row):
    with TraceReader.open(write(30)) as reader:
        texts = [text for step in range(30) for text in arbitrary_row(step).new_text]
        nll = np.concatenate([arbitrary_row(step).new_nll for step in range(30)])
        for start, stop in ((0, 120), (37, 41), (118, 120), (5, 5)):
            assert reader.text_of(start, stop) == texts[start:stop]
            np.testing.assert_array_equal(reader.nll_of(start, stop), nll[start:stop])
        assert reader.text_of(119, 122) == [texts[119], "", ""]
        assert np.isnan(reader.nll_of(119, 122)[1:]).all()


def test_text_is_found_across_tokens_rows_and_batches(write, arbitrary_row):
    with TraceReader.open(write(200)) as reader:
        texts = [text for step in range(200) for text in arbitrary_row(step).new_text]
        assert reader.find("w0.0") == (0, 1)
        assert reader.find("7.2 w7.3 w8.0") == (30, 33)  # rows 7 and 8: two batches
        assert reader.find("W9.1", ignore_case=True) == (37, 38)
        assert reader.find("W9.1") is None
        assert reader.find("w1", 40) == (40, 41)
        assert reader.find("w1", 0, backward=True) is None
        last = max(i for i, text in enumerate(texts) if "w1" in text)
        assert reader.find("w1", 800, backward=True) == (last, last + 1)
        assert reader.find("") is None
        assert reader.find("w199.3 ") == (799, 800)
        assert reader.find("w199.3 w") is None


def test_text_is_found_across_groups_of_batches(write):
    with TraceReader.open(write(140, flush_rows=1)) as reader:  # groups have 64 batches
        for step in (62, 63, 64, 127, 128):
            needle = f"w{step}.3 w{step + 1}.0"
            at = 4 * step + 3
            assert reader.find(needle) == (at, at + 2)
            assert reader.find(needle, 560, backward=True) == (at, at + 2)


@settings(max_examples=60)
@given(data=st.data())
def test_every_occurrence_is_found_in_both_directions(tmp_path_factory, meta, data):
    from megacontext.traces.row import TraceRow

    pieces = st.lists(st.sampled_from(["a", "b", "é", "", "ab"]), max_size=4)
    rows = data.draw(st.lists(pieces, min_size=1, max_size=12))
    path = tmp_path_factory.mktemp("find") / "run.arrow"
    history = 0
    with TraceWriter(path, meta, threaded=False, flush_rows=2) as writer:
        for step, texts in enumerate(rows):
            history += len(texts)
            row = TraceRow(step=step, history_tokens=history, budget_used=0, w_max=1)
            row.new_text, row.new_tokens = texts, np.zeros(len(texts), np.uint32)
            writer.put(row)
    tokens = [text for texts in rows for text in texts]
    needle = data.draw(st.sampled_from(["a", "ab", "bé", "aa", "éab", "abab"]))
    whole = "".join(tokens)
    stops = np.cumsum([len(text) for text in tokens])
    spans = []
    for at in range(len(whole)):
        if whole.startswith(needle, at):
            first = int(np.searchsorted(stops, at, side="right"))
            last = int(np.searchsorted(stops, at + len(needle) - 1, side="right"))
            spans.append((first, last + 1))
    with TraceReader.open(path) as reader:
        for start in range(history + 1):
            forward = next((s for s in spans if s[0] >= start), None)
            backward = next((s for s in reversed(spans) if s[0] < start), None)
            assert reader.find(needle, start) == forward
            assert reader.find(needle, start, backward=True) == backward


def test_a_ten_megabyte_piece_of_text_survives(tmp_path, meta, arbitrary_row):
    long = "x" * 10_000_000 + "needle"
    with TraceWriter(tmp_path / "run.arrow", meta) as writer:
        for step in range(4):
            row = arbitrary_row(step)
            if step == 2:
                row.new_text[1] = long
            writer.put(row)
    with TraceReader.open(tmp_path / "run.arrow") as reader:
        assert reader.row(2).new_text[1] == long
        assert reader.check() == []
        assert reader.find("needle") == (9, 10)
        assert reader.text_of(9, 10) == [long]


def test_a_bulk_row_of_many_tokens_survives(tmp_path, meta, arbitrary_row):
    row = arbitrary_row(0, tokens=300_000)
    with TraceWriter(tmp_path / "run.arrow", meta) as writer:
        writer.put(row)
    with TraceReader.open(tmp_path / "run.arrow") as reader:
        assert len(reader.row(0).new_text) == 300_000
        assert reader.text_of(299_999, 300_000) == ["w0.299999 "]


def test_a_row_whose_place_is_damaged_is_left_out_of_the_token_index(tmp_path, meta):
    path = tmp_path / "run.arrow"
    with TraceWriter(path, meta, threaded=False) as writer:
        for step, stop in enumerate((4, 1 << 58, 12)):
            tokens = np.full(4, step, np.uint32)
            writer.put(
                TraceRow(
                    step=step,
                    history_tokens=stop,
                    levels=np.zeros(1, np.int8),
                    budget_used=4,
                    w_max=100,
                    new_tokens=tokens,
                    new_text=["x"] * 4,
                    new_nll=np.zeros(4, np.float32),
                )
            )
    with TraceReader.open(path) as reader:
        index = TokenIndex(reader)
        assert index.advance(lambda: False)
        assert index.tokens(0, 12).tolist() == [0] * 4 + [-1] * 4 + [2] * 4
