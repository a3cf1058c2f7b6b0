"""States of real sessions: what was in the history, at which level, and which tokens came next.

One state is the newest ``blocks`` complete blocks of a history, one level for each of them, and
the ``horizon`` tokens that followed. LensNet is trained on them beside states that are drawn
(:mod:`megacontext.core.training.lensnet.dataset`): what each entry was worth is measured by the
base model, for the tokens that really came.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megacontext.traces.errors import SourceError

__all__ = ["RecordedState", "RecordedStates", "StateLayout", "levels_by_block", "write_states"]

_FILE = "states.parquet"
_KEY = b"megacontext"


@dataclass(frozen=True)
class StateLayout:
    """Sizes that all states of a folder share: blocks, tokens of a block, tokens that came next.

    ``tokenizer`` is the fingerprint of the tokenizer whose tokens they hold.
    """

    tokenizer: str
    block_size: int
    blocks: int
    horizon: int


@dataclass(frozen=True)
class RecordedState:
    """One state.

    Attributes:
        source: name of the trace or log, and where in it.
        tokens: int64[blocks * K + horizon].
        levels: int64[blocks], each 0, 1 or 2; empty where none was recorded (a log).
    """

    source: str
    tokens: np.ndarray
    levels: np.ndarray


def levels_by_block(levels: np.ndarray, blocks: int, block_size: int) -> np.ndarray:
    """The levels of a frontier's newest ``blocks`` blocks as a frontier over them alone.

    What was raw stays raw, and so do the newest two blocks. Coarser nodes become level 2 where a
    whole group of K blocks is coarse, else level 1.

    Args:
        levels: int[n], of the frontier's nodes, oldest first.

    Returns:
        int64[blocks].
    """
    wide = block_size ** (np.maximum(levels, 1).astype(np.int64) - 1)
    level = np.repeat(np.minimum(levels, 2).astype(np.int64), wide)[-blocks:]
    groups = blocks // block_size
    by_group = level[: groups * block_size].reshape(groups, block_size)
    whole = (by_group == 2).all(1)
    by_group[~whole] = np.minimum(by_group[~whole], 1)
    level[groups * block_size :] = np.minimum(level[groups * block_size :], 1)
    if groups and blocks - groups * block_size < 2:
        by_group[-1] = np.minimum(by_group[-1], 1)  # the raw blocks below may be part of it
    level[-2:] = 0
    return level


def write_states(folder: Path, states: Sequence[RecordedState], layout: StateLayout) -> None:
    """Write ``states.parquet``; it appears complete or not at all."""
    meta = {_KEY: json.dumps(asdict(layout), sort_keys=True).encode()}
    columns = {
        "source": pa.array([state.source for state in states], pa.string()),
        "tokens": pa.array([state.tokens for state in states], pa.list_(pa.uint32())),
        "levels": pa.array([state.levels for state in states], pa.list_(pa.int8())),
    }
    partial = folder / "states.tmp"
    pq.write_table(pa.table(columns).replace_schema_metadata(meta), partial)
    partial.replace(folder / _FILE)


class RecordedStates:
    """The states of a folder, in memory.

    Attributes:
        layout: their sizes.
    """

    def __init__(self, layout: StateLayout, states: Sequence[RecordedState]) -> None:
        self.layout, self._states = layout, list(states)

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, number: int) -> RecordedState:
        return self._states[number]

    @classmethod
    def open(
        cls, folder: Path, *, tokenizer: str, block_size: int, blocks: int, horizon: int
    ) -> RecordedStates:
        """The states in ``folder``, each cut to its newest ``blocks`` and ``horizon``.

        Raises:
            SourceError: no states, damaged ones, ones of another tokenizer or block size, or
                shorter ones.
        """
        path = folder / _FILE
        try:
            table = pq.read_table(path)
            layout = StateLayout(**json.loads((table.schema.metadata or {})[_KEY]))
        except (OSError, KeyError, TypeError, pa.ArrowException, json.JSONDecodeError) as error:
            raise SourceError(
                f"recorded: {path} holds no states ({type(error).__name__}); write them with "
                "`megacontext data from-traces`."
            ) from error

        # States of another model are refused; longer ones than asked for are cut.
        for name, has, needs in (
            ("tokenizer", layout.tokenizer, tokenizer),
            ("block_size", layout.block_size, block_size),
        ):
            if has != needs:
                raise SourceError(
                    f"recorded: {path} was made with {name} {has} and the model has {needs}; "
                    "make the states again with this model's tokenizer."
                )

        # Shorter ones cannot be stretched.
        if layout.blocks < blocks or layout.horizon < horizon:
            raise SourceError(
                f"recorded: {path} holds states of {layout.blocks} blocks and {layout.horizon} "
                f"coming tokens, fewer than states.near_blocks {blocks} or states.horizon "
                f"{horizon}; lower these or make longer states."
            )
        return cls(
            StateLayout(tokenizer, block_size, blocks, horizon),
            _cut(table, layout, blocks, horizon),
        )


def _cut(table: pa.Table, layout: StateLayout, blocks: int, horizon: int) -> list[RecordedState]:
    size = layout.block_size
    first, stop = (layout.blocks - blocks) * size, layout.blocks * size + horizon
    states = []
    for row in table.to_pylist():
        tokens = np.asarray(row["tokens"], np.int64)[first:stop]
        levels = np.asarray(row["levels"], np.int64)
        if len(levels) and blocks < layout.blocks:
            # A frontier over all blocks, one node for each raw block and each level-2 group.
            levels = _truncated(levels, blocks, size)
        states.append(RecordedState(row["source"], tokens, levels))
    return states


def _truncated(level: np.ndarray, blocks: int, size: int) -> np.ndarray:
    starts = (level < 2) | (np.arange(len(level)) % size == 0)
    return levels_by_block(level[starts], blocks, size)
