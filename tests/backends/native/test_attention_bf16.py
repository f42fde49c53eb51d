"""Attention that may round its factors to bf16: how far it is from float64, and where it rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from native_runs import ROUNDS, assert_matches, random_attention, reference, run_native, strided
from tiers import slow_after

from forgec.ir.types import DType


def _x(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _rounded(x: np.ndarray) -> np.ndarray:
    return x.astype(DType.BF16.numpy).astype(np.float32)


def _check(isa: str, operands: list[Any], attrs: dict[str, Any], threads: int) -> None:
    """With q, k and v rounded beforehand, only weights are: each by at most 2^-8 of itself, after 2^-13 in powers."""
    q, k, v, *rest = operands
    if isa not in ROUNDS or (q.shape[2] <= 2 and k.strides[3] == k.itemsize):
        assert_matches("attention", operands, {**attrs, "bf16": True}, 5e-6, threads=threads)
        return
    q, k, v = map(_rounded, (q, k, v))
    (want,) = reference("attention", [q, k, v, *rest], attrs)
    (size,) = reference("attention", [q, k, np.abs(v), *rest], attrs)
    (got,) = run_native("attention", operands, {**attrs, "bf16": True}, threads=threads)
    assert (np.abs(got - want) <= (2.0**-8 + 2.0**-12) * size + 2e-5).all(), np.abs(got - want).max()


@pytest.mark.parametrize("seed", range(40))
def test_random(isa: str, seed: int) -> None:
    operands, attrs = random_attention(np.random.default_rng(seed), seed)
    _check(isa, operands, attrs, threads=1 + seed % 2)


@pytest.mark.parametrize("seed", slow_after(20, range(40)))
def test_any_size(isa: str, seed: int) -> None:
    """Every tail of a tile: rows, keys, sizes of heads and of values; rows that see nothing; keys not yet filled."""
    rng = np.random.default_rng(seed)
    rows, length, size, value_size = (
        int(rng.integers(low, high)) for low, high in ((3, 161), (1, 301), (1, 131), (1, 131))
    )
    q, k, v = _x(rng, 1, 2, rows, size), _x(rng, 1, 1, length, size), _x(rng, 1, 1, length, value_size)
    mask: np.ndarray | None = None
    if seed % 3:
        mask = rng.random((1, 2, rows, length)) < rng.choice([0.02, 0.5])
        mask[:, :, rng.random(rows) < 0.3] = False
        if seed % 3 == 2:
            mask = np.where(mask, _x(rng, *mask.shape), np.float32(-np.inf))
    filled = np.array(rng.integers(0, length + 1)) if seed % 4 == 3 else None
    attrs = {"scale": size**-0.5, "causal": bool(seed % 5 == 1), "seq_major": bool(seed % 2)}
    _check(isa, [q, k, strided(rng, v), mask, filled], attrs, threads=1 + seed % 2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", slow_after(1, [10, 4]))
@pytest.mark.parametrize("size", slow_after(2, [63, 64, 400, 1]))
def test_several_blocks(isa: str, size: int, heads: int, causal: bool) -> None:
    """More query rows than a task has, more keys than a block, odd counts, heads longer than a block is deep, tiles
    that end amid the heads of a position."""
    rng = np.random.default_rng(size)
    q, k, v = _x(rng, 1, heads, 310, size), _x(rng, 1, 2, 501, size), _x(rng, 1, 2, 501, 33)
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


def test_the_only_key_gives_its_value(isa: str) -> None:
    rng = np.random.default_rng(1)
    v = _x(rng, 1, 2, 1, 40)
    (got,) = run_native(
        "attention", [_x(rng, 1, 2, 20, 8), _x(rng, 1, 2, 1, 8), v, None], {"scale": 0.3, "bf16": True}
    )
    np.testing.assert_allclose(
        got, np.broadcast_to(_rounded(v) if isa in ROUNDS else v, got.shape), rtol=1e-6
    )


def test_nan_and_infinity_stay_in_their_rows(isa: str) -> None:
    rng = np.random.default_rng(2)
    q, k, v = _x(rng, 1, 1, 20, 8), _x(rng, 1, 1, 33, 8), _x(rng, 1, 1, 33, 8)
    q[0, 0, 4, 2], q[0, 0, 6, 0] = np.nan, np.inf
    (got,) = run_native("attention", [q, k, v, None], {"scale": 0.3, "bf16": True})
    bad = np.isnan(got).any(-1)[0, 0]
    assert bad[4] and bad[6] and bad.sum() == 2


def test_nan_and_infinity_stay_in_their_columns(isa: str) -> None:
    rng = np.random.default_rng(3)
    q, k, v = _x(rng, 1, 1, 20, 8), _x(rng, 1, 1, 33, 8), _x(rng, 1, 1, 33, 8)
    v[0, 0, 30, 2], v[0, 0, 32, 5], v[0, 0, 1, 7] = np.nan, np.inf, -np.inf
    (got,) = run_native("attention", [q, k, v, None], {"scale": 0.3, "bf16": True})
    assert np.isnan(got[..., 2]).all() and (got[..., 5] == np.inf).all() and (got[..., 7] == -np.inf).all()
    assert np.isfinite(got[..., [0, 1, 3, 4, 6]]).all()


def test_no_keys(isa: str) -> None:
    q, k = np.ones((1, 2, 3, 4), np.float32), np.ones((1, 2, 0, 4), np.float32)
    assert_matches("attention", [q, k, k, None], {"bf16": True})
