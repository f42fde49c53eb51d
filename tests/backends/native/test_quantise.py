"""Scales and codes of weights by the native runtime: those of the ops' references, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from forgec.backends.cpu.native.quantise import narrow, quantise, scales
from hypothesis import given, settings
from hypothesis import strategies as st

from forgec.ir.ops import compressed
from forgec.ir.types import unpack_i4

NUMBERS = [0.0, -0.0, np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-44, 0.5, 1.5, -2.5]


@st.composite
def weights(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """A weight, perhaps with odd numbers in it or with columns that lie apart, bits, and a group."""
    bits = draw(st.sampled_from([4, 8]))
    rows = draw(st.integers(1, 70))
    depth = draw(st.one_of(st.integers(1, 70), st.sampled_from([127, 1024, 1500, 3000])))
    depth += bits == 4 and depth % 2
    group = draw(st.sampled_from([0, 4, 8, 24, 32, 128]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.standard_normal((rows, depth)).astype(np.float32)
    if draw(st.booleans()):  # numbers half-way between two codes
        weight = rng.integers(-254, 255, weight.shape).astype(np.float32) / 2
    for number in draw(st.lists(st.sampled_from(NUMBERS), max_size=4)):
        weight[rng.integers(rows), rng.integers(depth)] = number
    if draw(st.booleans()):
        weight[rng.integers(rows)] = 0
    layout = draw(st.sampled_from(["rows", "columns", "wide"]))
    if layout == "columns":
        weight = np.asfortranarray(weight)
    elif layout == "wide":
        weight = np.concatenate([weight, weight], axis=1)[:, :depth]
    return weight, bits, group


@pytest.mark.usefixtures("isa")
@given(case=weights())
@settings(max_examples=150, deadline=None, print_blob=True)
def test_scales_and_codes_are_those_of_the_references(case: tuple[np.ndarray, int, int]) -> None:
    weight, bits, group = case
    with np.errstate(all="ignore"):
        expected = compressed.scales(weight, bits=bits, group=group)
        codes = compressed.quantise(weight, expected, bits=bits, group=group)
    found = scales(weight, bits=bits, group=group)
    np.testing.assert_array_equal(found, expected)
    made = quantise(weight, found, bits=bits, group=group)
    assert made.dtype == codes.dtype
    np.testing.assert_array_equal(made.view(np.uint8), codes.view(np.uint8))
    offsets = found[::-1, ::-1] * np.float32(0.75)
    with np.errstate(all="ignore"):
        codes = compressed.quantise(weight, found, offsets, bits=bits, group=group)
    made = quantise(weight, found, offsets, bits=bits, group=group)
    np.testing.assert_array_equal(made.view(np.uint8), codes.view(np.uint8))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("group", [0, 16, 24])
@pytest.mark.parametrize("bits", [4, 8])
def test_codes_with_offsets_come_back(bits: int, group: int) -> None:
    """The least code and the largest too, and of groups of which the last is shorter."""
    rng = np.random.default_rng(5)
    half, count = 2 ** (bits - 1), -(-64 // (group or 64))
    codes = rng.integers(-half, half, (40, 64), np.int8)
    by = rng.uniform(0.01, 0.1, (count, 40)).astype(np.float32)
    offsets = by * rng.integers(-half, half, by.shape).astype(np.float32)
    spread = [compressed.by_group(x, 64, group) for x in (by, offsets)]
    weight = codes * spread[0] + spread[1]
    made = quantise(weight, by, offsets, bits=bits, group=group)
    found = unpack_i4(made) if bits == 4 else made
    np.testing.assert_array_equal(found, codes)
    assert found.min() == -half and found.max() == half - 1


@pytest.mark.parametrize("shape", [(0, 8), (3, 0)])
def test_nothing_to_do(shape: tuple[int, int]) -> None:
    weight = np.zeros(shape, np.float32)
    by = scales(weight, bits=8, group=0)
    assert by.shape == (1, shape[0])
    assert quantise(weight, by, bits=8, group=0).shape == shape


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("count", [0, 1, 15, 33, 1 << 16])
def test_narrowing_is_that_of_the_reference(count: int) -> None:
    """Every number of f16, denormal and infinite ones too, and what is rounded to one; of any layout."""
    with np.errstate(invalid="ignore"):
        every = np.arange(count, dtype=np.uint16).view(np.float16).astype(np.float32)
    every = every[~np.isnan(every)]
    for weight in (every, every[::-1], every * np.float32(1.0003), every.reshape(-1, 1)):
        with np.errstate(over="ignore"):
            wanted = compressed.narrow(weight, dtype="f16")
        found = narrow(weight, dtype="f16")
        assert found.dtype == np.float16 and found.shape == weight.shape
        np.testing.assert_array_equal(found.view(np.uint16), wanted.view(np.uint16))
        np.testing.assert_array_equal(narrow(weight, dtype="bf16"), compressed.narrow(weight, dtype="bf16"))


def test_weights_of_other_types() -> None:
    weight = np.linspace(-1, 1, 24).reshape(3, 8)
    by = scales(weight, bits=8, group=0)
    np.testing.assert_array_equal(by, compressed.scales(weight, bits=8, group=0))
    codes = quantise(weight, by.astype(np.float32), bits=8, group=0)
    assert codes.dtype == np.int8 and codes.min() == -127
