"""``gist.products``: GistNet multiplies in bfloat16 only where asked and where it pays."""

from __future__ import annotations

import pytest
import torch

from megacontext.core.config import parse_config
from megacontext.core.gistnet import bf16_linear
from megacontext.core.runtime.build import load_base, make_gister
from megacontext.core.runtime.pretrained import bundle_parts, resolve_kinds


@pytest.mark.skipif("gistnet" not in bundle_parts(), reason="the bundle holds no GistNet")
@pytest.mark.parametrize(
    ("products", "units", "kind"),
    [
        ("float32", True, torch.float32),
        ("auto", False, torch.float32),
        ("auto", True, torch.bfloat16),
    ],
)
def test_products_are_halved_on_demand_and_with_matrix_units(products, units, kind, monkeypatch):
    monkeypatch.setattr(bf16_linear, "has_matrix_units", lambda: units)
    config = resolve_kinds(parse_config(f"device: cpu\ngist: {{products: {products}}}\n"))
    gister = make_gister(config, load_base(config))
    assert gister.net.encoder.layers[0].q_proj.weight.dtype == kind
    assert gister.net.head.weight.dtype == torch.float32
