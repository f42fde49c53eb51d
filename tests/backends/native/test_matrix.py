"""Matrix products, convolutions and attention over generated shapes, strides, tails and values."""

from __future__ import annotations

import numpy as np
import pytest
from native_runs import assert_matches, random_attention, reference, run_native, strided
from tiers import slow_after

ACTS = ["", "gelu", "gelu_tanh", "relu", "silu", "sigmoid", "tanh"]


def _x(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 9, 14, 15, 29, 64])
def test_linear_rows(isa: str, rows: int, packed: bool) -> None:
    rng = np.random.default_rng(rows)
    for out, depth in ((1, 1), (31, 5), (47, 16), (49, 40), (100, 257), (96, 520)):
        weight = _x(rng, out, depth) / np.float32(depth**0.5)
        operands = [_x(rng, rows, depth), weight, _x(rng, out), None]
        act = ACTS[int(rng.integers(len(ACTS)))]
        for threads in (1, 2):
            assert_matches("linear", operands, {"act": act}, 5e-6, packed=packed, threads=threads)


def test_linear_of_many_blocks(isa: str) -> None:
    """Several blocks of rows, panels and depth: every order in which tasks meet them gives the same sums."""
    rng = np.random.default_rng(7)
    operands = [_x(rng, 530, 400), _x(rng, 610, 400) / np.float32(20), _x(rng, 610), _x(rng, 530, 610)]
    for threads in (1, 2):
        assert_matches("linear", operands, {"act": ""}, 5e-6, packed=True, threads=threads)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("order", slow_after(1, ["F", "C"]))
def test_linear_in_slices_is_that_of_a_packed_weight_to_the_bit(isa: str, rows: int, order: str) -> None:
    """A weight too large for one slice, with a tail, on both sides of the bound."""
    rng = np.random.default_rng(rows)
    for out in (1008, 1009, 2100):
        weight = np.asarray(_x(rng, out, 1024) / np.float32(32), order=order)
        x, bias, residual = _x(rng, rows, 1024), _x(rng, out), _x(rng, rows, out)
        for threads, act, more in ((1, "gelu", None), (2, "", residual)):
            operands, attrs = [x, weight, bias, more], {"act": act}
            (want,) = run_native("linear", operands, attrs, packed=True, threads=threads)
            (got,) = run_native("linear", operands, attrs, packed=False, threads=threads)
            np.testing.assert_array_equal(got, want)


def test_linear_random(isa: str) -> None:
    for seed in range(25):
        print("seed", seed)
        rng = np.random.default_rng(seed)
        lead = tuple(int(n) for n in rng.integers(1, 5, rng.integers(0, 3)))
        out, depth = int(rng.integers(1, 130)), int(rng.integers(1, 300))
        x, residual = _x(rng, *lead, depth), _x(rng, *lead, out)
        bias = _x(rng, out) if rng.random() < 0.5 else None
        with_residual = bool(rng.random() < 0.5)
        attrs = {"act": "" if with_residual else ACTS[seed % len(ACTS)]}
        operands = [
            strided(rng, x),
            strided(rng, _x(rng, out, depth) / np.float32(depth**0.5)),
            bias,
            strided(rng, residual) if with_residual else None,
        ]
        assert_matches("linear", operands, attrs, 5e-6, packed=bool(seed % 2), threads=1 + seed % 2)


def test_linear_residual_in_place(isa: str) -> None:
    rng = np.random.default_rng(3)
    for rows in (1, 20):
        x, weight, bias, residual = _x(rng, rows, 300), _x(rng, 70, 300), _x(rng, 70), _x(rng, rows, 70)
        want = x.astype(np.float64) @ weight.T.astype(np.float64) + bias + residual
        place = residual.copy()
        run_native("linear", [x, weight, bias, place], {}, packed=True, outputs=[place], runs=1, threads=2)
        np.testing.assert_allclose(place, want, rtol=1e-5, atol=1e-4)


def test_linear_without_depth_or_rows(isa: str) -> None:
    x = np.zeros((3, 0), np.float32)
    bias = np.arange(5, dtype=np.float32)
    assert_matches("linear", [x, np.zeros((5, 0), np.float32), bias, None], {"act": "relu"}, packed=True)
    assert_matches(
        "linear", [np.zeros((0, 4), np.float32), np.ones((5, 4), np.float32), bias, None], {}, packed=True
    )


def test_linear_keeps_nan_and_infinity(isa: str) -> None:
    rng = np.random.default_rng(5)
    x, weight = _x(rng, 20, 40), np.abs(_x(rng, 50, 40))
    x[3, 7], x[4, 0] = np.nan, np.inf
    assert_matches("linear", [x, weight, None, None], {"act": "relu"}, 5e-6, packed=True)


@pytest.mark.parametrize("seed", range(12))
def test_matmul(isa: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = tuple(int(n) for n in rng.integers(1, 4, rng.integers(0, 3)))
    m, k, n = (int(v) for v in rng.integers(1, 80, 3))
    a = strided(rng, _x(rng, *batch, m, k))
    b = strided(rng, _x(rng, *(1 if rng.random() < 0.3 else size for size in batch), k, n))
    assert_matches("matmul", [a, b], {}, 5e-6, threads=1 + seed % 2)


@pytest.mark.parametrize("seed", range(16))
def test_conv(isa: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    spatial = int(rng.integers(1, 3))
    groups, channels, outs = (int(v) for v in rng.integers(1, 5, 3))
    if seed % 3 == 0:
        channels = outs = 1
    size = tuple(int(v) for v in rng.integers(9, 40 if spatial == 1 else 14, spatial))
    kernel = tuple(int(v) for v in rng.integers(1, 4, spatial))
    attrs = {
        name: tuple(int(v) for v in rng.integers(low, high, spatial))
        for name, low, high in (("stride", 1, 4), ("padding", 0, 3), ("dilation", 1, 3))
    }
    x = strided(rng, _x(rng, 2, groups * channels, *size))
    bias = _x(rng, groups * outs) if seed % 2 else None
    operands = [x, _x(rng, groups * outs, channels, *kernel), bias]
    assert_matches("conv", operands, {**attrs, "groups": groups}, 5e-6, threads=1 + seed % 2)


@pytest.mark.parametrize("seed", range(12))
def test_matrix_times_vector(isa: str, seed: int) -> None:
    """Rows where they lie, more of them than a task and odd counts; a vector for all of a batch or for each."""
    rng = np.random.default_rng(seed)
    batch = tuple(int(n) for n in rng.integers(1, 6, rng.integers(0, 3)))
    m, k = int(rng.integers(1, 90)), int(rng.choice([1, 7, 16, 33, 128, 500]))
    a = strided(rng, _x(rng, *batch, m, k))
    x = _x(rng, *(1 if rng.random() < 0.3 else size for size in batch), k, 1)
    assert_matches("matmul", [a, x], {}, 5e-6, threads=1 + seed % 2)
    a[..., m // 2, k // 2], x[..., k // 2, :] = np.nan, np.inf
    assert_matches("matmul", [a, x], {}, 5e-6, threads=1 + seed % 2)
    assert_matches("matmul", [a[..., :0, :], x], {})
    assert_matches("matmul", [a[..., :0], x[..., :0, :]], {})


@pytest.mark.parametrize(("m", "k", "n"), [(64, 64, 130), (3, 70, 49), (1, 300, 100), (40, 1, 97)])
def test_members_of_a_batch_on_a_thread_each(isa: str, m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(m)
    for count in (4, 7):
        a, b = _x(rng, count, 3, m, k), _x(rng, count, 1, k, n)
        for left, right in ((a, b), (np.asarray(a, order="F"), b.swapaxes(2, 3).copy().swapaxes(2, 3))):
            assert_matches("matmul", [left, right], {}, 5e-6, threads=2)


@pytest.mark.parametrize("seed", range(12))
def test_one_result_of_every_channel(isa: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, channels, outs = 70, int(rng.integers(1, 3)), int(rng.integers(1, 4))
    spatial = 1 + seed % 2
    kernel, dilation, more = (tuple(int(v) for v in rng.integers(1, 4, spatial)) for _ in range(3))
    stride = tuple(n + 2 for n in more)  # beyond the end of what there is
    size = tuple((k - 1) * d + n for k, d, n in zip(kernel, dilation, more, strict=True))
    attrs = {"stride": stride, "padding": (0,) * spatial, "dilation": dilation, "groups": groups}
    x = strided(rng, _x(rng, 3, groups * channels, *size))
    bias = _x(rng, groups * outs) if seed % 3 else None
    operands = [x, _x(rng, groups * outs, channels, *kernel), bias]
    assert_matches("conv", operands, attrs, 5e-6, threads=1 + seed % 2)


@pytest.mark.parametrize("seed", range(12))
def test_depthwise_rows_of_few_columns(isa: str, seed: int) -> None:
    """As of a recurrent layer that writes a token; some see beyond both ends, some nothing at all."""
    rng = np.random.default_rng(seed)
    groups, outs, size = 37, int(rng.integers(1, 4)), int(rng.integers(1, 20))
    kernel, dilation = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    padding = int(rng.integers(max(0, ((kernel - 1) * dilation + 2 - size) // 2), 7 + kernel * dilation))
    attrs = {"stride": (1,), "padding": (padding,), "dilation": (dilation,), "groups": groups}
    x = strided(rng, _x(rng, 2, groups, size))
    bias = _x(rng, groups * outs) if seed % 2 else None
    operands = [x, _x(rng, groups * outs, 1, kernel), bias]
    assert_matches("conv", operands, attrs, 5e-6, threads=1 + seed % 2)


@pytest.mark.parametrize("seed", range(40))
def test_attention(isa: str, seed: int) -> None:
    operands, attrs = random_attention(np.random.default_rng(seed), seed)
    assert_matches("attention", operands, attrs, 5e-6, threads=1 + seed % 2)


@pytest.mark.parametrize("seed", slow_after(9, range(18)))
def test_attention_over_several_blocks(isa: str, seed: int) -> None:
    """More query rows than a task has, of heads that share keys too, more keys than a block, heads longer than a
    block is deep."""
    rng = np.random.default_rng(100 + seed)
    rows, length = int(rng.choice([50, 145, 310])), int(rng.choice([192, 193, 500]))
    size, value_size = (int(rng.choice([8, 64, 200])) for _ in range(2))
    heads, group = 1 + seed % 2, (1, 3, 8)[seed // 2 % 3]
    joint = _x(rng, 1, length, heads * (size + value_size))
    k = joint[..., : heads * size].reshape(1, length, heads, size).transpose(0, 2, 1, 3)
    v = joint[..., heads * size :].reshape(1, length, heads, value_size).transpose(0, 2, 1, 3)
    mask = rng.random((1, 1, rows, length)) > 0.3 if seed % 3 == 0 else None
    attrs = {"scale": size**-0.5, "causal": seed % 2 == 0, "window": int(rng.choice([0, 70]))}
    assert_matches(
        "attention", [_x(rng, 1, heads * group, rows, size), k, v, mask], attrs, 5e-6, threads=1 + seed % 3
    )


@pytest.mark.parametrize("mask", [None, "open", "lowest"])
@pytest.mark.parametrize("scale", [0.0, -0.4, 0.4])
def test_attention_scales_and_masks_at_their_ends(isa: str, scale: float, mask: str | None) -> None:
    """Masks that hide nothing, and masks of the lowest finite value, which hides only beside other keys."""
    rng = np.random.default_rng(4)
    values = None
    if mask is not None:
        values = np.zeros((2, 1, 20, 40), np.float32)
        if mask == "lowest":
            values[0, :, :, 7:] = np.finfo(np.float32).min
            values[1, :, 3] = np.finfo(np.float32).min
    q, k, v = _x(rng, 2, 2, 20, 16), _x(rng, 2, 2, 40, 16), _x(rng, 2, 2, 40, 16)
    if mask != "lowest" or scale == 0:
        assert_matches("attention", [q, k, v, values], {"scale": scale})
        return
    (got,), (want,) = (f("attention", [q, k, v, values], {"scale": scale}) for f in (run_native, reference))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.delete(got[1], 3, 1), np.delete(want[1], 3, 1), rtol=1e-5, atol=1e-5)
    # Beside the lowest value float32 has no room for scores: all keys count the same.
    np.testing.assert_allclose(got[1, :, 3], v[1].mean(1), rtol=1e-5, atol=1e-5)


def test_attention_large_scores_do_not_overflow(isa: str) -> None:
    rng = np.random.default_rng(1)
    q, k, v = 100 * _x(rng, 1, 2, 20, 16), 100 * _x(rng, 1, 2, 200, 16), _x(rng, 1, 2, 200, 16)
    assert_matches("attention", [q, k, v, None], {"scale": 1.0}, 2e-3)


def test_attention_without_keys_gives_zeros(isa: str) -> None:
    q, k = np.ones((1, 2, 3, 4), np.float32), np.ones((1, 2, 0, 4), np.float32)
    assert_matches("attention", [q, k, k, None], {})


def test_attention_nan_in_the_query_stays_in_its_row(isa: str) -> None:
    rng = np.random.default_rng(2)
    q, k, v = _x(rng, 1, 1, 20, 8), _x(rng, 1, 1, 30, 8), _x(rng, 1, 1, 30, 8)
    q[0, 0, 4, 2] = np.nan
    assert_matches("attention", [q, k, v, None], {"scale": 0.3})
