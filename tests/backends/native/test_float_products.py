"""Products of many rows, where a runtime may take numbers apart: shapes, strides, values of any size, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from forgec.backends.cpu import native
from native_runs import assert_matches, run_native, strided
from tiers import slow_after

MANY = (63, 64, 65, 81, 97, 130)
"""Rows below and above what AMX takes."""


def _x(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _exact(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(x.astype(np.float64) @ weight.astype(np.float64).T)


def _linear(x: np.ndarray, weight: np.ndarray, **how: Any) -> np.ndarray:
    (out,) = run_native("linear", [x, weight, None, None], {"act": ""}, packed=True, **how)
    return out


@pytest.mark.parametrize("first", range(1, 71, 10))
def test_depths(isa: str, first: int) -> None:
    rng = np.random.default_rng(first)
    for depth in range(first, min(first + 10, 71)):
        rows, out = int(rng.choice(MANY)), int(rng.integers(1, 110))
        print("rows", rows, "out", out, "depth", depth)
        operands = [_x(rng, rows, depth), _x(rng, out, depth) / np.float32(depth**0.5), _x(rng, out), None]
        assert_matches("linear", operands, {"act": ""}, packed=True, threads=1 + depth % 2)


@pytest.mark.parametrize("first", slow_after(2, range(1, 100, 20)))
def test_widths(isa: str, first: int) -> None:
    """One panel and two, over several blocks of depth, written over the residual or beside it."""
    rng = np.random.default_rng(first)
    for out in range(first, first + 20):
        rows, depth = int(rng.choice(MANY)), int(rng.choice([191, 193, 400]))
        print("rows", rows, "out", out, "depth", depth)
        x, weight, bias = _x(rng, rows, depth), _x(rng, out, depth) / np.float32(20), _x(rng, out)
        residual = _x(rng, rows, out)
        assert_matches("linear", [x, weight, bias, residual], {"act": ""}, packed=True, threads=1 + out % 3)
        place = residual.copy()
        run_native("linear", [x, weight, bias, place], {"act": ""}, packed=True, outputs=[place], runs=1)
        np.testing.assert_allclose(place, _exact(x, weight) + bias + residual, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "relu", "silu", "sigmoid", "tanh"])
def test_activations_and_strides(isa: str, act: str) -> None:
    rng = np.random.default_rng(len(act))
    for rows in MANY:
        x, weight = strided(rng, _x(rng, rows, 230)), strided(rng, _x(rng, 75, 230) / np.float32(15))
        for packed in (True, False):
            assert_matches("linear", [x, weight, _x(rng, 75), None], {"act": act}, packed=packed, threads=2)


@pytest.mark.parametrize("threads", [1, 2])
def test_many_blocks_of_rows(isa: str, threads: int) -> None:
    """So many rows and few columns that every thread has rows of its own, also out of order in memory."""
    rng = np.random.default_rng(threads)
    for rows, out, depth in ((520, 100, 400), (777, 17, 192), (1030, 70, 500)):
        x, weight, bias = _x(rng, depth, rows).T, _x(rng, out, depth) / np.float32(20), _x(rng, out)
        x[rows // 3, 1] = np.float32(1e20)
        weight[:, 1] = 0
        operands = [x, weight, bias, _x(rng, rows, out)]
        assert_matches("linear", operands, {"act": ""}, 5e-6, packed=True, threads=threads)


@pytest.mark.parametrize("seed", range(8))
def test_matmul(isa: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, k, n = int(rng.choice(MANY)), int(rng.integers(1, 500)), int(rng.integers(1, 150))
    a, b = strided(rng, _x(rng, 2, m, k)), strided(rng, _x(rng, int(rng.integers(1, 3)), k, n))
    assert_matches("matmul", [a, b], {}, 5e-6, threads=1 + seed % 2)


@pytest.mark.parametrize("outs", [65, 80])
def test_conv(isa: str, outs: int) -> None:
    rng = np.random.default_rng(outs)
    attrs = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}
    operands = [_x(rng, 2, 6, 15, 17), _x(rng, 2 * outs, 3, 3, 3), _x(rng, 2 * outs)]
    assert_matches("conv", operands, attrs, 5e-6, threads=2)


def test_sums_do_not_depend_on_threads(isa: str) -> None:
    rng = np.random.default_rng(1)
    for rows in (*MANY, 530):
        x, weight = _x(rng, rows, 500), _x(rng, 300, 500)
        x[rows // 2, 7] = np.float32(1e20)
        want = _linear(x, weight, threads=1)
        for threads in (2, 3, 4):
            np.testing.assert_array_equal(_linear(x, weight, threads=threads), want)


EXTREMES = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e30, 1e-30, 1e-38, 1e-42, -0.0, 0.0]


@pytest.mark.parametrize("value", EXTREMES)
@pytest.mark.parametrize("where", ["x", "weight", "both"])
def test_single_extremes(isa: str, value: float, where: str) -> None:
    """One extreme value gives what IEEE gives, and changes nothing in other rows and columns."""
    rng = np.random.default_rng(3)
    x, weight = _x(rng, 70, 210), _x(rng, 60, 210)
    want = _linear(x, weight)
    if where != "weight":
        x[20, 200] = value
    if where != "x":
        weight[40, 200] = value
    got, exact = _linear(x, weight, threads=2), _exact(x, weight)
    _assert_ieee(got, exact, np.abs(x).astype(np.float64) @ np.abs(weight).astype(np.float64).T)
    others = [np.delete(np.delete(y, 20, 0), 40, 1) for y in (got, want)]
    np.testing.assert_allclose(*others, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FFF8000, 0xFFC00000])
def test_every_nan_is_one(isa: str, bits: int) -> None:
    rng = np.random.default_rng(4)
    x, weight = _x(rng, 80, 64), _x(rng, 50, 64)
    x.view(np.uint32)[3, 5] = bits
    weight.view(np.uint32)[7, 60] = bits
    np.testing.assert_array_equal(np.isnan(_linear(x, weight)), np.isnan(_exact(x, weight)))


@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-30, 1e-20, 1e-14, 1e-6, 1e6, 1e12, 1e20])
@pytest.mark.parametrize("where", ["x", "row", "weight", "column"])
def test_scales(isa: str, scale: float, where: str) -> None:
    """Values of any size, all of them or one row's or column's, are multiplied as exactly as others."""
    rng = np.random.default_rng(5)
    x, weight = _x(rng, 90, 100), _x(rng, 50, 100)
    part = {"x": x, "row": x[7:8], "weight": weight, "column": weight[11:12]}[where]
    part *= np.float32(scale)
    if scale < 1e-20:  # so that results are normal numbers
        (weight if where in ("x", "row") else x)[:] *= np.float32(1e15)
    size = np.abs(x).astype(np.float64) @ np.abs(weight).astype(np.float64).T
    _assert_ieee(_linear(x, weight), _exact(x, weight), size)


def _assert_ieee(got: np.ndarray, exact: np.ndarray, size: np.ndarray) -> None:
    """As a sum in f32 of products that add up to ``size`` without their signs."""
    with np.errstate(over="ignore"):
        want = exact.astype(np.float32)
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(got[~finite], want[~finite])
    assert (np.abs(got[finite] - exact[finite]) <= 1e-6 * size[finite] + 1e-37).all()


@pytest.mark.parametrize("outliers", [False, True])
@pytest.mark.parametrize("depth", [768, 3072])
def test_errors_are_those_of_f32(
    isa: str, depth: int, outliers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No further from float64 than multiply-adds in f32 by AVX-512, on average and at most."""
    rng = np.random.default_rng(depth)
    x, weight = _x(rng, 64, depth), _x(rng, 96, depth) / np.float32(depth**0.5)
    if outliers:
        x[:, rng.choice(depth, 5, replace=False)] *= np.float32(1000)
    exact = _exact(x, weight)
    error = np.abs(_linear(x, weight) - exact)
    assert np.sqrt((error**2).mean()) < 2.0**-24 * 3 * np.abs(exact).max()
    if "avx512" in native.isas():
        monkeypatch.setenv("FORGEC_ISA", "avx512")
        plain = np.abs(_linear(x, weight) - exact)
        if isa == "amx":
            assert (error**2).mean() <= (plain**2).mean() and error.max() <= 1.2 * plain.max()
