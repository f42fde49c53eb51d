"""Pooling over generated windows, strides, tails and values, on every instruction set."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from native_runs import assert_matches, strided
from random_pools import random_pool

from forgec.ir.op import IRTypeError, get
from forgec.ir.types import TensorType


def _fits(x: np.ndarray, attrs: dict) -> bool:
    try:
        get("pool").result_types([TensorType.of(x)], attrs)
    except IRTypeError:
        return False
    return True


def test_random(isa: str) -> None:
    tried = 0
    for seed in range(200):
        print("seed", seed)
        rng = np.random.default_rng(seed)
        x, attrs = random_pool(rng)
        if _fits(x, attrs):
            assert_matches("pool", [strided(rng, x) if x.size else x], attrs, threads=1 + seed % 2)
            tried += 1
    assert tried > 120


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_columns_with_every_tail(isa: str, kind: str, stride: int) -> None:
    """Results from 1 to beyond two of the widest vectors, with windows over both ends."""
    rng = np.random.default_rng(stride)
    for size in range(3, 3 + 34 * stride, stride):
        x = rng.standard_normal((1, 2, 3, size)).astype(np.float32)
        attrs = {"kind": kind, "kernel": (2, 3), "stride": (1, stride), "padding": (1, 1), "dilation": (1, 1)}
        assert_matches("pool", [x], attrs)


@pytest.mark.parametrize(("kind", "padded"), [("max", False), ("average", False), ("average", True)])
def test_rows_of_several_parts(isa: str, kind: str, padded: bool) -> None:
    """Rows longer than what is done at a time, as of sound, where a part ends inside a window."""
    rng = np.random.default_rng(3)
    for length, stride in product((2048, 2049, 8200), (1, 2, 3)):
        x = rng.standard_normal((1, 2, length)).astype(np.float32)
        attrs = {
            "kind": kind,
            "kernel": (5,),
            "stride": (stride,),
            "padding": (2,),
            "include_padding": padded,
        }
        assert_matches("pool", [x], attrs, 5e-6, threads=2)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_an_image_shared_by_threads(isa: str, kind: str) -> None:
    x = np.random.default_rng(4).standard_normal((2, 7, 57, 61)).astype(np.float32)
    attrs = {
        "kind": kind,
        "kernel": (3, 3),
        "stride": (2, 2),
        "padding": (1, 1),
        "dilation": (1, 1),
        "ceil": True,
    }
    for threads in (1, 2, 3):
        assert_matches("pool", [x], attrs, threads=threads)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_nan_and_infinity_stay_in_their_windows(isa: str, kind: str, stride: int) -> None:
    rng = np.random.default_rng(5)
    for value, place in product((np.nan, np.inf, -np.inf), range(0, 40, 3)):
        x = rng.standard_normal((1, 1, 3, 40)).astype(np.float32)
        x[0, 0, place % 3, place] = value
        attrs = {"kind": kind, "kernel": (2, 3), "stride": (1, stride), "padding": (0, 1), "dilation": (1, 1)}
        assert_matches("pool", [x], attrs)


def test_without_batch_or_channels(isa: str) -> None:
    for shape in ((0, 3, 8), (2, 0, 8, 8)):
        spatial = len(shape) - 2
        attrs = {"kernel": (2,) * spatial, "stride": (2,) * spatial, "padding": (0,) * spatial}
        assert_matches(
            "pool", [np.zeros(shape, np.float32)], {**attrs, "dilation": (1,) * spatial}, threads=2
        )
