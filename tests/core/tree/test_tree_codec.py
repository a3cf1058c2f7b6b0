"""bfloat16 in numpy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megacontext.core.tree.codec import from_bf16, to_bf16


def bf16(values):
    return from_bf16(to_bf16(np.array(values, np.float32)))


def test_bf16_rounds_to_nearest_even():
    step = 2.0**-7
    halves = [1 + step / 2, 1 + 3 * step / 2, 1 + step / 2 + 1e-5, -1 - step / 2]
    np.testing.assert_array_equal(bf16(halves), np.float32([1, 1 + 2 * step, 1 + step, -1]))


def test_bf16_keeps_special_values():
    special = np.array([0.0, -0.0, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(bf16(special).view(np.uint32), special.view(np.uint32))
    assert np.isinf(bf16([3.4e38]))
    payloads = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0x7FC00000], np.uint32)
    assert np.isnan(from_bf16(to_bf16(payloads.view(np.float32)))).all()


@given(st.integers(0, 0xFFFF))
def test_bf16_values_come_back_exactly(pattern):
    stored = np.array([pattern], np.uint16)
    value = from_bf16(stored)
    if not np.isnan(value):
        assert to_bf16(value) == stored


@given(st.floats(-(2.0**126), 2.0**126, width=32))
def test_bf16_is_the_nearest_representable_value(value):
    given_value = np.float32(value)
    got = to_bf16(np.array([given_value]))
    neighbours = from_bf16((got + np.array([-1, 0, 1])).astype(np.uint16))
    distance = np.abs(neighbours.astype(np.float64) - float(given_value))
    assert distance[1] == np.nanmin(distance)
