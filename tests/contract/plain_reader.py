"""Reads a trace with pyarrow alone, from what docs/formats.md says; used as an outside check."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa


def read_rows(path: Path) -> tuple[list[dict], dict[str, str]]:
    """All whole rows as plain Python, and the metadata; finished or cut files."""
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            schema = reader.schema
    except pa.ArrowInvalid:
        with pa.OSFile(str(path)) as file:
            file.seek(8)
            reader = pa.ipc.open_stream(file)
            schema, batches = reader.schema, []
            while True:
                try:
                    batches.append(reader.read_next_batch())
                except (StopIteration, pa.ArrowInvalid, OSError):
                    break
    metadata = {k.decode(): v.decode() for k, v in schema.metadata.items()}
    return [row for batch in batches for row in batch.to_pylist()], metadata


def width(level: int, block: int) -> int:
    return block ** max(level, 1)


def cost_of(levels: list[int], tail: int, block: int) -> int:
    return sum(block if level == 0 else 1 for level in levels) + tail


def check_tiling(levels: list[int], history: int, tail: int, block: int) -> None:
    """Tiling, alignment and existence of every node."""
    at = 0
    for level in levels:
        span = width(level, block)
        assert at % span == 0, f"a level-{level} node starts at {at}"
        at += span
    assert at + tail == history
    assert tail < block


def apply_action(levels: list[int], action: dict, block: int) -> list[int]:
    """The frontier after one action; asserts that it swaps a gist and all its K children."""
    level, index = action["level"], action["index"]
    start, at, position = index * width(level, block), 0, 0
    while at < start:
        at += width(levels[position], block)
        position += 1
    assert at == start, "the node's start is no boundary"
    children = [0] if level == 1 else [level - 1] * block
    if action["kind"] == 0:
        assert levels[position] == level
        new = levels[:position] + children + levels[position + 1 :]
        change = block - 1
    else:
        assert levels[position : position + len(children)] == children
        new = [*levels[:position], level, *levels[position + len(children) :]]
        change = 1 - block
    assert action["cost"] == change
    return new


def check_trace(path: Path) -> int:
    """Reconstruct every state and check every row; returns the number of rows."""
    rows, metadata = read_rows(path)
    block = int(metadata["mc.block_size"])
    state: list[int] | None = None
    for row in rows:
        levels, tail = list(row["levels"]), row["tail_tokens"]
        if state is not None:
            assert levels == state + list(row["appended_levels"])
        check_tiling(levels, row["history_tokens"], tail, block)
        if row["scores"] is not None:
            assert len(row["scores"]) == len(levels)
        used = cost_of(levels, tail, block)
        was_over = used > row["w_max"]
        for action in row["actions"]:
            levels = apply_action(levels, action, block)
            used += action["cost"]
            assert used <= row["w_max"] or (was_over and action["kind"] == 1)
        check_tiling(levels, row["history_tokens"], tail, block)
        assert used == cost_of(levels, tail, block) == row["budget_used"] <= row["w_max"]
        assert row["w_max"] - used >= block, "headroom"
        assert len(row["rejected"]) <= 32
        assert len(row["new_text"]) == len(row["new_tokens"]) == len(row["new_nll"])
        state = levels
    return len(rows)
