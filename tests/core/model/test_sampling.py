"""Sampling is a function of (seed, position, logits), and respects top-k and top-p."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megacontext.core.model import Sampler
from megacontext.traces.errors import ConfigError


def logits(seed: int = 0, size: int = 50) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_temperature_zero_takes_the_likeliest_token():
    assert Sampler().sample(torch.tensor([0.0, 3.0, 1.0]), 5) == 1


def test_the_same_position_draws_the_same_token_and_positions_differ():
    sampler = Sampler(temperature=1.0, seed=3)
    draws = [sampler.sample(logits(), p) for p in range(40)]
    assert draws == [sampler.sample(logits(), p) for p in range(40)]
    assert len(set(draws)) > 5
    assert draws != [Sampler(temperature=1.0, seed=4).sample(logits(), p) for p in range(40)]


@given(st.integers(0, 1000), st.integers(1, 8))
def test_top_k_keeps_the_k_likeliest(position, k):
    drawn = Sampler(temperature=2.0, top_k=k).sample(logits(), position)
    assert drawn in logits().topk(k).indices


@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_top_p_keeps_the_smallest_set_that_holds_the_mass(position, mass):
    drawn = Sampler(temperature=1.0, top_p=mass).sample(logits(), position)
    likeliest = logits().softmax(-1).sort(descending=True)
    count = int((likeliest.values.cumsum(-1) < mass).sum()) + 1
    assert drawn in likeliest.indices[:count]


@pytest.mark.parametrize(("mass", "kept"), [(0.5, {0}), (0.7, {0, 1}), (0.95, {0, 1, 2})])
def test_top_p_keeps_the_token_that_completes_the_mass(mass, kept):
    values = torch.tensor([0.6, 0.3, 0.1]).log()
    sampler = Sampler(temperature=1.0, top_p=mass)
    assert {sampler.sample(values, p) for p in range(200)} == kept


def test_frequencies_follow_the_probabilities():
    values = torch.tensor([0.5, 0.3, 0.2]).log()
    sampler = Sampler(temperature=1.0, seed=1)
    counts = torch.bincount(torch.tensor([sampler.sample(values, p) for p in range(3000)]))
    assert torch.allclose(counts / 3000, values.exp(), atol=0.03)


def test_a_low_temperature_is_nearly_greedy():
    sampler = Sampler(temperature=0.01)
    assert {sampler.sample(logits(), p) for p in range(50)} == {int(logits().argmax())}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1.0}, "sampling.temperature is -1.0"),
        ({"temperature": float("nan")}, "sampling.temperature is nan"),
        ({"top_k": -1}, "sampling.top_k is -1"),
        ({"top_p": 0.0}, "sampling.top_p is 0.0"),
        ({"top_p": 1.5}, "sampling.top_p is 1.5"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Sampler(**arguments)
