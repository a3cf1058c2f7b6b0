"""Rows and small traces that the trace tests share."""

import dataclasses

import numpy as np
import pytest

from megacontext.traces.meta import TraceMeta
from megacontext.traces.row import ACTION_DTYPE, REJECTED_DTYPE, TraceRow
from megacontext.traces.synthetic import make_small_trace
from megacontext.traces.writer import TraceWriter


def arbitrary_row(step: int, nodes: int = 20, tokens: int = 4) -> TraceRow:
    """A row with something in every column; not legal as a state, but that is not its point."""
    random = np.random.default_rng(step)
    actions = np.zeros(step % 3, ACTION_DTYPE)
    actions["index"], actions["score"], actions["forced"] = 2**60 + step, 0.5, step % 2
    rejected = np.zeros(step % 2, REJECTED_DTYPE)
    rejected["reason"] = 18
    return TraceRow(
        step=step,
        round=step % 2,
        t_ns=step * 1_000,
        history_tokens=(step + 1) * tokens,
        tail_tokens=1,
        new_tokens=random.integers(0, 2**32, tokens, dtype=np.uint32),
        new_text=[f"w{step}.{i} " for i in range(tokens)],
        new_nll=random.random(tokens).astype(np.float32),
        appended_levels=np.zeros(1, np.int8),
        levels=np.ones(nodes, np.int8),
        scores=random.uniform(-1, 1, nodes).astype(np.float16),
        actions=actions,
        rejected=rejected,
        budget_used=step,
        w_max=64,
        kv_drift=None if step % 2 else 0.5,
        us_gist=1.5,
        marker=f"mark {step}" if step % 5 == 0 else None,
        trigger=2,
        knobs='{"w_max": 64}' if step == 3 else None,
    )


def same_row(a: TraceRow, b: TraceRow, but: tuple[str, ...] = ()) -> bool:
    """Whether two rows agree bit for bit, NaN included."""

    def equal(x: object, y: object) -> bool:
        if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
            return x.dtype == y.dtype and x.tobytes() == y.tobytes()
        return x == y

    names = [field.name for field in dataclasses.fields(TraceRow) if field.name not in but]
    return all(equal(getattr(a, name), getattr(b, name)) for name in names)


@pytest.fixture(name="arbitrary_row")
def arbitrary_row_fixture():
    return arbitrary_row


@pytest.fixture(name="same_row")
def same_row_fixture():
    return same_row


@pytest.fixture(scope="session")
def meta() -> dict[str, str]:
    return TraceMeta(block_size=4, w_max=64, levels=3, seed=7, config="seed: 7\n").to_metadata()


@pytest.fixture
def write(tmp_path, meta):
    """Write ``rows`` arbitrary rows to a finished trace and return its path."""

    def write(rows: int, name: str = "run.arrow", **options):
        path = tmp_path / name
        with TraceWriter(path, meta, threaded=False, **options) as writer:
            for step in range(rows):
                writer.put(arbitrary_row(step))
        return path

    return write


@pytest.fixture(scope="session")
def small_trace(tmp_path_factory):
    """A legal trace of 200 rows with markers, questions and several levels."""
    path = tmp_path_factory.mktemp("made") / "small.arrow"
    make_small_trace(path)
    return path
