"""``megacontext data prepare --recall``: synthetic recall text as shards of the domain ``recall``.

The filler is the prepared text itself, so the text shards come first. A recall shard holds whole
windows, one document each; window n is a function of (seed, n), the options and the text shards
alone: neither ``jobs`` nor an interruption changes any byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from megacontext.core.data.recall.writer import RecallOptions, RecallWriter
from megacontext.core.data.shards import Layout, open_shards, write_shard
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.data.tokenizer import load_tokenizer
from megacontext.core.rng import generator
from megacontext.traces.errors import ConfigError

__all__ = ["DOMAIN", "RecallText", "RecallUnit", "recall_units", "write_recall"]

DOMAIN = "recall"
_SHORTEST = 256  # a shorter window cannot hold a fact, some filler and a question


@dataclass(frozen=True)
class RecallText:
    """How much recall text is written, and of which kind.

    Attributes:
        share: of all tokens of the data set.
        length: tokens of a window; 0: those of a slice.
        split: wording, names and made-up words of ``train`` or of ``heldout``.
        gappy: share of the windows that are gappy.
        facts_max, scenes_max, asked_max, fill: see
            :class:`..recall.writer.RecallOptions`.
        windows_per_shard: windows in one file.
    """

    share: float = 0.2
    length: int = 0
    split: Literal["train", "heldout"] = "train"
    seed: int = 0
    gappy: float = 0.3
    facts_max: int = 12
    scenes_max: int = 8
    asked_max: int = 20
    fill: float = 0.5
    windows_per_shard: int = 1024

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"recall.share: {self.share:g} is not between 0 and 1.")
        if not 0 <= self.gappy <= 1:
            raise ConfigError(f"recall.gappy: {self.gappy:g} is outside 0 to 1.")
        if self.windows_per_shard < 1:
            raise ConfigError(f"recall.windows_per_shard: {self.windows_per_shard} is below 1.")

    def window(self, layout: Layout) -> int:
        """Tokens of a window under ``layout``.

        Raises:
            ConfigError: a window is no multiple of the block size, or does not fit a slice.
        """
        length = self.length or layout.slice_tokens
        if length < _SHORTEST or length > layout.slice_tokens or length % layout.block_size:
            raise ConfigError(
                f"recall.length: {length} is no multiple of block_size {layout.block_size} from "
                f"{_SHORTEST} to slice_tokens {layout.slice_tokens}."
            )
        return length


@dataclass(frozen=True)
class RecallUnit:
    """Windows [``first``, ``stop``) of one shard; ``note`` names what they are made from."""

    first: int
    stop: int
    note: str


def recall_units(
    recall: RecallText, layout: Layout, text: Sequence[dict[str, object]]
) -> Iterator[RecallUnit]:
    """The shards of recall text beside the ``text`` shards, given by their manifest entries."""
    length = recall.window(layout)
    tokens = sum(int(str(entry["tokens"])) for entry in text)
    count = max(1, round(tokens * recall.share / (1 - recall.share) / length))
    facts = [asdict(layout), asdict(recall), [entry["sha256"] for entry in text]]
    for first in range(0, count, recall.windows_per_shard):
        stop = min(count, first + recall.windows_per_shard)
        made_from = json.dumps([*facts, first, stop], sort_keys=True)
        yield RecallUnit(first, stop, hashlib.sha256(made_from.encode()).hexdigest()[:16])


def write_recall(
    unit: RecallUnit, recall: RecallText, path: Path, tokenizer: Path, layout: Layout
) -> dict[str, object]:
    """Write one shard; the text shards lie in the same folder. Returns the manifest entry."""
    streams = TokenStreams(open_shards(path.parent, layout.tokenizer, "shard-*.arrow"))
    writer = RecallWriter(load_tokenizer(tokenizer), recall.split, recall.seed, layout.block_size)
    length = recall.window(layout)
    documents = []
    for number in range(unit.first, unit.stop):
        rng = generator(recall.seed, f"data.recall.{recall.split}", number)
        domain = streams.domains[int(rng.integers(len(streams.domains)))]
        gappy = bool(rng.random() < recall.gappy)
        options = RecallOptions(
            facts_max=recall.facts_max,
            scenes_max=recall.scenes_max,
            asked_max=recall.asked_max,
            gappy=gappy,
            fill=recall.fill,
        )
        filler = streams.window(rng, domain, length * (options.stretch_max if gappy else 1))
        sample = writer.sample(filler, length, options, number)
        documents.append((f"recall-{number:06d}", DOMAIN, sample.tokens))
    return write_shard(path, documents, layout, unit.note)
