"""Logits as the trainers compute them are the model's own, whatever its head does."""

import pytest
import torch

from megacontext.core.model import BaseModel
from megacontext.core.model.tiny import tiny_config, tiny_module
from megacontext.core.training.common.frozen_base import FrozenBase
from megacontext.traces.errors import ModelError


def base(kind: str, **changes) -> BaseModel:
    config = tiny_config(kind)
    for name, value in changes.items():
        setattr(config, name, value)
    return BaseModel.from_module(tiny_module(config), name=kind)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("granite", {"logits_scaling": 8.0, "embedding_multiplier": 3.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("gemma2", {"final_logit_softcapping": 5.0}),
        ("phi", {}),
    ],
)
def test_scale_bias_cap_and_embedding_are_the_models(kind, changes):
    model = base(kind, **changes)
    frozen = FrozenBase(model)
    ids = torch.arange(100, 140)[None]
    with torch.no_grad():
        own = model.module(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(frozen.logits(frozen.hidden(frozen.embed(ids))), own.float())


def test_a_head_that_does_more_is_refused():
    model = base("llama")
    head = model.module.lm_head
    head.register_forward_hook(lambda _module, _inputs, out: out * 2)
    with pytest.raises(ModelError, match="cannot be trained for: its logits are not those"):
        FrozenBase(model)
