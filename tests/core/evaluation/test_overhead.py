"""What the overhead's figure counts."""

from __future__ import annotations

from megacontext.core.config import parse_config
from megacontext.core.evaluation.overhead import overhead_of
from megacontext.core.gistnet.mean import MeanGister


def test_every_closed_block_pays_for_its_gist_even_where_the_text_repeats(config_text, monkeypatch):
    encoded = []
    encode_blocks = MeanGister.encode_blocks

    def counting(self, tokens, left):
        encoded.append(len(tokens))
        return encode_blocks(self, tokens, left)

    monkeypatch.setattr(MeanGister, "encode_blocks", counting)
    # The context of a block is none here and one token is decoded over and over.
    monkeypatch.setattr("megacontext.core.runtime.session.Session._pick", lambda session: 65)
    found = overhead_of(parse_config(config_text), cycles=3)
    assert found.cycles == 3
    assert encoded.count(1) == 2 + 3
