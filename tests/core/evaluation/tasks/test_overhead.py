"""What the overhead's figure counts."""

from __future__ import annotations

import pytest

from megacontext.core.config import parse_config
from megacontext.core.evaluation.tasks import overhead
from megacontext.core.evaluation.tasks.overhead import overhead_of
from megacontext.core.gistnet.mean import MeanGister
from megacontext.core.runtime.session import Session


def test_every_closed_block_pays_for_its_gist_even_where_the_text_repeats(config_text, monkeypatch):
    encoded = []
    encode_blocks = MeanGister.encode_blocks

    def counting(self, tokens, left):
        encoded.append(len(tokens))
        return encode_blocks(self, tokens, left)

    monkeypatch.setattr(MeanGister, "encode_blocks", counting)
    # The context of a block is none here and one token is decoded over and over.
    monkeypatch.setattr(Session, "_sample_token", lambda session, left: 65)
    result = overhead_of(parse_config(config_text), cycles=3)
    assert result.cycles == 3
    assert encoded.count(1) == 2 + 3


def test_what_the_closing_token_takes_longer_counts_as_refocusing(config_text, monkeypatch):
    clock = [0.0]
    take = Session._append_tokens

    def timed(session, tokens):
        # A second that no stage accounts for, as of a gist that is made beside the model.
        context = session.parts.focus.working_context
        clock[0] += 1 + (context.tail_tokens == context.block_size - 1)
        return take(session, tokens)

    monkeypatch.setattr(Session, "_append_tokens", timed)
    monkeypatch.setattr(overhead, "_now", lambda device: clock[0])
    monkeypatch.setattr(Session, "_sample_token", lambda session, left: 65)
    config = parse_config(config_text)
    result = overhead_of(config, cycles=3)
    # What the stages say of their own time is not on this clock.
    assert result.ratio == pytest.approx((config.block_size + 1) / config.block_size, rel=0.01)
    assert result.token_ms == pytest.approx(1000, rel=0.01)
