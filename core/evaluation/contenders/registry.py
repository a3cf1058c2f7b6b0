"""The contenders by name: ours and the controls, all at the same budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from megacontext.core.config import Config, EchoConfig
from megacontext.core.evaluation.contenders.engine_contender import (
    Asked,
    FocusedSeat,
    GoldLens,
    StillLens,
)
from megacontext.core.evaluation.contenders.lazy_window import LazyKVWindow, OtherGists
from megacontext.core.evaluation.contenders.raw_blocks import (
    FixedSeat,
    Pick,
    best_blocks,
    newest_blocks,
    sink_and_newest,
)
from megacontext.core.evaluation.contenders.workspace import History, Kit
from megacontext.core.focus.actions import F32, I64
from megacontext.core.lenses import Lens, make_lens
from megacontext.core.tree.spec import U32
from megacontext.traces.errors import ConfigError

__all__ = ["CONTENDERS", "FOCUSED", "Seat", "check_names", "sample_config", "take_seat"]

CONTENDERS = {
    "ours": "the configured gists, lens, echoes and allocator",
    "recency": "sliding window: the first block and the newest raw blocks",
    "random": "ours with random scores, without echoes",
    "bm25": "raw blocks that BM25 finds, the newest blocks, no gists",
    "dense": "raw blocks that a sentence-embedding model finds, the newest blocks, no gists",
    "oracle": "ours with a lens that knows where the answer is, without echoes",
    "oracle_neighbours": "oracle, which also opens the blocks before and after",
    "gists": "gists without a lens",
    "echo": "gists without a lens, and what the newest tokens echo",
    "mean": "ours with mean-pooled gists in the window",
    "delete": "the newest raw blocks",
    "full": "the whole history in the window, while it fits the trained window",
}
FOCUSED = ("ours", "random", "oracle", "oracle_neighbours", "gists", "echo", "mean")
_DEAF = ("random", "oracle", "oracle_neighbours", "gists")  # controls of the lens alone


class Seat(Protocol):
    """A contender that has read some history."""

    def read(self, tokens: U32) -> None:
        """More history."""
        ...

    def ask(self, prompt: U32, limit: int, stop: str, room: int = 0) -> Asked:
        """A greedy answer of up to ``limit`` tokens; ``room``: what it may come to with more."""
        ...

    def more(self, limit: int, stop: str) -> str:
        """The answer goes on; empty where it has ended."""
        ...

    def hear(self, prompt: U32) -> None:
        """A question whose answer is measured next."""
        ...

    def judge(self, tokens: U32) -> tuple[F32, bool]:
        """NLL of the next tokens in nats, and whether each was the likeliest."""
        ...

    def measure(self, tokens: U32) -> F32:
        """NLL of the next tokens in nats."""
        ...


def check_names(names: list[str]) -> list[str]:
    """``names`` without repeats.

    Raises:
        ConfigError: a name that no contender has.
    """
    for name in names:
        if name not in CONTENDERS:
            raise ConfigError(
                f"--contenders: {name!r} is unknown; use some of {', '.join(CONTENDERS)}."
            )
    return list(dict.fromkeys(names))


def take_seat(
    name: str,
    kit: Kit,
    config: Config,
    history: History,
    read: int,
    gold: I64,
    *,
    stream: bool = False,
    follow: bool = False,
) -> Seat:
    """The contender ``name`` after the first ``read`` tokens of ``history``.

    Args:
        config: of the kit, with the budget and the seed of this sample.
        gold: token spans I64[m, 2] of the answer, may be empty.
        stream: the model reads the whole history, block by block. Otherwise the working context
            starts cold over it (newest blocks raw, then gists), and the window is built once,
            when it is needed: by the first token decoded or measured, or at once for a lens that
            reads the model's hidden states.
        follow: build the window at once for every lens, so that it follows the refocuses by the
            session's own edits.
    """
    if name not in FOCUSED:
        w_max = kit.base.window if name == "full" else config.w_max
        window = kit.kept_window(name, w_max, history)
        query, tokens = config.lens.query_tokens, history.tokens[:read]
        pick = _pick(name, kit, config, history)
        return FixedSeat(window, kit.base.tokenizer, config.block_size, tokens, pick, query, gold)
    if name in _DEAF:
        config = replace(config, triggers=replace(config.triggers, echo=EchoConfig()))
    parts = kit.parts(config, history, 0 if stream else read, _lens(name, kit, gold, history))
    if name == "mean":
        assert isinstance(parts.window, LazyKVWindow)
        parts.window.hide_gists = False
        tree = kit.tree(history.mean_gister, history.tokens[: 0 if stream else read])
        parts.window.gists = OtherGists(tree)
    sees_model = name in ("ours", "mean") and kit.lens_reads_model
    seat = FocusedSeat(parts, gold, held=not (stream or sees_model or follow))
    if stream and read:
        seat.read(history.tokens[:read])
    return seat


def sample_config(config: Config, number: int) -> Config:
    """The config of sample ``number``: lenses and allocators that draw, draw anew."""
    return replace(config, seed=config.seed + number)


def _pick(name: str, kit: Kit, config: Config, history: History) -> Pick:
    match name:
        case "recency":
            return sink_and_newest
        case "bm25":
            return best_blocks(history.search.scores, config.focus.protected_blocks)
        case "dense":
            return best_blocks(kit.dense_search(history), config.focus.protected_blocks)
        case _:
            return newest_blocks


def _with_neighbours(gold: I64, size: int, tokens: int) -> I64:
    """Spans over the blocks of ``gold``, the ones before and the ones after."""
    first, last = gold[:, 0] // size - 1, -(-gold[:, 1] // size) + 1
    return np.stack([np.maximum(first, 0) * size, np.minimum(last * size, tokens)], axis=1)


def _lens(name: str, kit: Kit, gold: I64, history: History) -> Lens:
    match name:
        case "random":
            return make_lens("random")
        case "oracle":
            return GoldLens(gold)
        case "oracle_neighbours":
            size, tokens = kit.config.block_size, len(history.tokens)
            return GoldLens(_with_neighbours(gold, size, tokens))
        case "gists" | "echo":
            return StillLens()
        case _:
            return kit.fresh_lens(history)
