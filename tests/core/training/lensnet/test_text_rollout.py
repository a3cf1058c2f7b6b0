"""Walks through plain text: what the judge says of lenses whose scores are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from megacontext.core.data.shards import open_shards
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer
from megacontext.core.training.lensnet.text_rollout import TextRollouts
from megacontext.traces.errors import ConfigError


def _walks(shards: Path, tiny_base: Path, blocks: int = 24) -> TextRollouts:
    streams = TokenStreams(open_shards(shards, fingerprint(load_tokenizer(tiny_base))))
    base: Any = SimpleNamespace(device=torch.device("cpu"))
    gistnet: Any = SimpleNamespace(config=SimpleNamespace(block_size=32))
    return TextRollouts(base, gistnet, streams, 2, blocks, 256, 0)


@pytest.mark.parametrize(
    ("raw", "gist", "least", "most"), [(0.0, 0.0, 0.7, 1.0), (-0.9, 0.0, 0.0, 0.6)]
)
def test_a_lens_that_only_folds_leaves_the_budget_unused(
    shards: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    raw: float,
    gist: float,
    least: float,
    most: float,
) -> None:
    def make_scorer(self: TextRollouts, lens: object, closed: int) -> Any:
        return lambda levels, index: np.where(levels == 0, raw, gist).astype(np.float32)

    monkeypatch.setattr(TextRollouts, "_make_scorer", make_scorer)
    nothing: Any = None
    figures = _walks(shards, tiny_base).evaluate(nothing)
    assert least <= figures["utilization"] <= most
    assert (figures["swap_rate"] > 0) == (raw < 0)
    assert figures["expands"] == 0
    assert figures["plain_raw_p05"] == pytest.approx(raw)


def test_texts_have_to_outgrow_the_budget(shards: Path, tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match="use more than 8"):
        _walks(shards, tiny_base, blocks=8)
