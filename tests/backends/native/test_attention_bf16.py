"""Attention that may round its factors to bf16: how far it is from float64, and where it rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from native_runs import ROUNDS, assert_matches, random_attention, reference, run_native, strided

from forgec.ir.types import DType


def _x(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _rounded(x: np.ndarray) -> np.ndarray:
    return x.astype(DType.BF16.numpy).astype(np.float32)


def _check(isa: str, operands: list[Any], attrs: dict[str, Any], threads: int) -> None:
    """With q, k and v rounded beforehand, only weights are rounded: each by at most 2^-8 of itself."""
    q, k, v, mask = operands
    if isa not in ROUNDS or (q.shape[2] <= 2 and k.strides[3] == k.itemsize):
        assert_matches("attention", operands, {**attrs, "bf16": True}, 5e-6, threads=threads)
        return
    q, k, v = map(_rounded, (q, k, v))
    (want,) = reference("attention", [q, k, v, mask], attrs)
    (size,) = reference("attention", [q, k, np.abs(v), mask], attrs)
    (got,) = run_native("attention", operands, {**attrs, "bf16": True}, threads=threads)
    assert (np.abs(got - want) <= 2.0**-8 * size + 2e-5).all(), np.abs(got - want).max()


@pytest.mark.parametrize("seed", range(40))
def test_random(isa: str, seed: int) -> None:
    operands, attrs = random_attention(np.random.default_rng(seed), seed)
    _check(isa, operands, attrs, threads=1 + seed % 2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [1, 63, 64, 400])
def test_several_blocks(isa: str, size: int, causal: bool) -> None:
    """More query rows than a task has, more keys than a block, odd counts, heads longer than a block is deep."""
    rng = np.random.default_rng(size)
    q, k, v = _x(rng, 1, 4, 310, size), _x(rng, 1, 2, 501, size), _x(rng, 1, 2, 501, 33)
    attrs = {"scale": size**-0.5, "causal": causal, "window": 300 if causal else 0}
    _check(isa, [strided(rng, q), strided(rng, k), v, None], attrs, threads=2)


def test_it_rounds_where_it_is_faster_and_where_it_may(isa: str) -> None:
    rng = np.random.default_rng(0)
    for rows in (1, 20):
        operands = [_x(rng, 1, 2, rows, 64), _x(rng, 1, 2, 70, 64), _x(rng, 1, 2, 70, 64), None]
        (may,) = run_native("attention", operands, {"scale": 0.1, "bf16": True})
        (must_not,) = run_native("attention", operands, {"scale": 0.1})
        assert bool((may != must_not).any()) == (isa in ROUNDS and rows > 2)
        assert_matches("attention", operands, {"scale": 0.1})


def test_nan_and_infinity_stay_in_their_rows(isa: str) -> None:
    rng = np.random.default_rng(2)
    q, k, v = _x(rng, 1, 1, 20, 8), _x(rng, 1, 1, 33, 8), _x(rng, 1, 1, 33, 8)
    q[0, 0, 4, 2], q[0, 0, 6, 0] = np.nan, np.inf
    (got,) = run_native("attention", [q, k, v, None], {"scale": 0.3, "bf16": True})
    bad = np.isnan(got).any(-1)[0, 0]
    assert bad[4] and bad[6] and bad.sum() == 2


def test_no_keys(isa: str) -> None:
    q, k = np.ones((1, 2, 3, 4), np.float32), np.ones((1, 2, 0, 4), np.float32)
    assert_matches("attention", [q, k, k, None], {"bf16": True})
