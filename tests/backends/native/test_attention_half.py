"""Attention over keys and values of f16: to the bit what it is over the same numbers in f32."""

from __future__ import annotations

import numpy as np
import pytest
from native_runs import assert_matches, random_attention, run_native, strided
from tiers import slow_after


def _half(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16)


def _same(operands: list, attrs: dict, threads: int = 1) -> None:
    q, k, v, *rest = operands
    widened = [np.ascontiguousarray(x, np.float32) for x in (k, v)]
    (got,) = run_native("attention", [q, k, v, *rest], attrs, threads=threads)
    (want,) = run_native("attention", [q, *widened, *rest], attrs, threads=threads)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("seed", slow_after(20, range(40)))
def test_random(isa: str, seed: int, bf16: bool) -> None:
    (q, k, v, *rest), attrs = random_attention(np.random.default_rng(seed), seed)
    operands = [q, _half(k), _half(v), *rest]
    _same(operands, {**attrs, "bf16": bf16}, threads=1 + seed % 2)
    if not bf16:
        assert_matches("attention", operands, attrs, 5e-6, threads=1 + seed % 2)


@pytest.mark.parametrize("rows", [1, 2, 20])
@pytest.mark.parametrize("size", [1, 7, 64, 129])
def test_a_cache_that_is_filled_to_some_row(isa: str, rows: int, size: int) -> None:
    """Several blocks, heads that share keys, tails of vectors, rows apart in a wider memory."""
    rng = np.random.default_rng(rows * 1000 + size)
    q = rng.standard_normal((1, 8, rows, size)).astype(np.float32)
    k, v = (_half(rng.standard_normal((1, 2, 500, n))) for n in (size, size + 3))
    for filled in (0, 1, 191, 193, 500):
        for layout in (lambda x: x, lambda x: strided(rng, x)):
            operands = [q, layout(k), layout(v), None, np.array(filled)]
            _same(operands, {"scale": size**-0.5, "causal": True}, threads=2)


def test_every_number_of_f16_is_widened_to_itself(isa: str) -> None:
    """The only key gives its value: all 65536, subnormal ones, infinities and NaN too, in vectors and behind."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for v in (numbers, numbers[:-3]):
        v = v.reshape(1, 1, 1, -1)
        one = np.ones((1, 1, 1, 8), np.float32)
        (got,) = run_native("attention", [one, _half(one), v, None], {"scale": 0.3})
        np.testing.assert_array_equal(got, v.astype(np.float32))
