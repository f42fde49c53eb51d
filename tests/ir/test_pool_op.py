"""The record of ``pool`` against PyTorch over generated windows, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ir_programs import t
from torch_table import TORCH

from forgec.ir import ops  # noqa: F401  (registers the records)
from forgec.ir.op import IRTypeError, get
from forgec.ir.ops.pooling import divisors, windows
from forgec.ir.types import TensorType

sys.path.append(str(Path(__file__).parents[1] / "backends"))

from random_pools import random_pool

POOL = get("pool")


@pytest.mark.parametrize("seed", range(150))
def test_equals_torch_or_both_refuse(seed: int) -> None:
    x, attrs = random_pool(np.random.default_rng(seed))
    try:
        want = TORCH["pool"](torch.from_numpy(x), **attrs).numpy()
    except RuntimeError:
        if not x.size:
            return  # PyTorch has no empty channels in every operator; here they are legal
        with pytest.raises(IRTypeError, match="does not fit"):
            POOL.result_types([TensorType.of(x)], attrs)
        return
    assert POOL.result_types([TensorType.of(x)], attrs) == (TensorType.of(want),), f"seed {seed}: {attrs}"
    (got,) = POOL.evaluate((x,), attrs)
    if attrs["kind"] == "max":
        np.testing.assert_array_equal(got, want, err_msg=f"seed {seed}: {attrs}")
    else:
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6, err_msg=f"seed {seed}: {attrs}")


def test_a_nan_is_the_largest_of_every_window_that_has_it() -> None:
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 8)
    x[0, 0, 3] = np.nan
    attrs = {"kernel": (3,), "stride": (2,), "padding": (1,)}
    (got,) = POOL.evaluate((x,), attrs)
    want = torch.max_pool1d(torch.from_numpy(x), 3, 2, 1).numpy()
    np.testing.assert_array_equal(got, want)
    assert np.isnan(got).tolist() == [[[False, True, True, False]]]


def test_a_window_between_all_elements_has_no_largest() -> None:
    x = np.ones((1, 1, 1), np.float32)
    (got,) = POOL.evaluate((x,), {"kernel": (2,), "dilation": (3,), "padding": (2,)})
    assert got.tolist() == [[[-np.inf, -np.inf]]]


def test_windows_rounded_up_reach_over_the_padding_but_do_not_count_it() -> None:
    attrs = {**POOL.attrs, "kernel": (3,), "stride": (2,), "padding": (1,), "ceil": True}
    assert windows((1, 1, 8), attrs) == [(5, 2)]
    assert divisors((1, 1, 8), attrs).tolist() == [2, 3, 3, 3, 1]
    assert divisors((1, 1, 8), {**attrs, "include_padding": True}).tolist() == [3, 3, 3, 3, 2]
    assert windows((1, 1, 8), {**attrs, "ceil": False}) == [(4, 0)]


@pytest.mark.parametrize(
    ("shape", "attrs", "message"),
    [
        ((1, 2, 8), {"kind": "min"}, "unknown kind of pooling 'min'"),
        ((2, 8), {}, "rank 3 or 4"),
        ((1, 2, 8, 8), {"kernel": (2, 2)}, "needs 2 kernel sizes, strides"),
        ((1, 2, 8), {"stride": (0,)}, "at least 1"),
        ((1, 2, 8), {"kernel": (0,)}, "at least 1"),
        ((1, 2, 0), {}, "has no element"),
        ((1, 2, 8), {"kind": "average", "kernel": (2,), "dilation": (2,)}, "have no dilation"),
        ((1, 2, 8), {"include_padding": True}, "only an average"),
        ((1, 2, 8), {"kernel": (3,), "padding": (2,)}, "over half of what a window covers, 3"),
        ((1, 2, 8), {"kernel": (3,), "padding": (-1,)}, "padding -1 is negative"),
        ((1, 2, 8), {"kernel": (9,)}, r"a window of \[9\] does not fit"),
    ],
)
def test_refused(shape: tuple[int, ...], attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(IRTypeError, match=message):
        POOL.result_types([t(*shape)], attrs)


def test_integers_are_refused() -> None:
    with pytest.raises(IRTypeError, match="x must be floating point"):
        POOL.result_types([TensorType.of(np.zeros((1, 1, 4), np.int64))], {})
