"""Normalisation, softmax, rotary embedding, reductions and look-ups over generated shapes and values."""

from __future__ import annotations

import numpy as np
import pytest
from native_runs import assert_matches, run_native, strided

from forgec.errors import InputError


def _x(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", [1, 7, 16, 33, 768, 1025])
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm"])
def test_norms(isa: str, op: str, size: int) -> None:
    rng = np.random.default_rng(size)
    rows = [strided(rng, _x(rng, 3, 9, size)) for _ in range(2 if op.startswith("add") else 1)]
    scales = [_x(rng, size) if rng.random() < 0.7 else None for _ in range(2 if "layer" in op else 1)]
    eps = 1e-3 if size == 1 else 1e-6
    assert_matches(op, [*rows, *scales], {"eps": eps}, 5e-6, threads=2)


def test_layer_norm_far_from_zero(isa: str) -> None:
    x = _x(np.random.default_rng(0), 4, 300) + np.float32(100)
    assert_matches("layer_norm", [x, None, None], {}, 2e-5)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax(isa: str, op: str, axis: int) -> None:
    rng = np.random.default_rng(axis + 5)
    for shape in ((3, 5, 7), (2, 150, 40), (1, 16, 513), (40, 3, 200)):
        x = 20 * _x(rng, *shape)
        x[rng.random(shape) < 0.1] = -np.inf
        x[0, 0, 0] = 1.0
        assert_matches(op, [strided(rng, x)], {"axis": axis}, 1e-5, threads=2)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary", [2, 16, 34, 64])
def test_rope(isa: str, interleaved: bool, rotary: int) -> None:
    rng = np.random.default_rng(rotary)
    x = strided(rng, _x(rng, 2, 3, 50, 64))
    for shape in ((50, rotary), (2, 1, 50, rotary), (1, rotary)):
        cos, sin = strided(rng, _x(rng, *shape)), _x(rng, *shape)
        assert_matches("rope", [x, cos, sin], {"interleaved": interleaved}, threads=2)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("op", ["sum", "mean", "max", "min", "prod"])
def test_reductions(isa: str, op: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 12, rng.integers(1, 5)))
    axes = tuple(int(a) for a in rng.permutation(len(shape))[: rng.integers(0, len(shape) + 1)])
    x = _x(rng, *shape)
    if op in ("max", "min") and seed % 4 == 0:
        x.flat[int(rng.integers(x.size))] = np.nan
    assert_matches(op, [strided(rng, x)], {"axes": axes, "keepdims": bool(seed % 2)}, threads=2)
    if op != "mean":
        assert_matches(op, [rng.integers(-9, 9, shape)], {"axes": axes})


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int32])
@pytest.mark.parametrize("shape", [(7,), (3, 5, 130), (2, 300, 97), (40, 6, 1), (3, 0, 4), (4, 4, 0)])
def test_running_sums(isa: str, shape: tuple[int, ...], dtype: type) -> None:
    rng = np.random.default_rng(len(shape))
    x = strided(rng, (rng.standard_normal(shape) * 100).astype(dtype))
    for axis in range(x.ndim):
        assert_matches("cumsum", [x], {"axis": axis}, threads=1 + axis % 2)


def test_reductions_of_nothing(isa: str) -> None:
    empty = np.zeros((3, 0), np.float32)
    for op in ("sum", "prod", "mean"):
        assert_matches(op, [empty], {"axes": (1,)})
    for op in ("any", "all"):
        assert_matches(op, [np.zeros((3, 0), np.bool_)], {"axes": (1,)})


def test_large_sums_are_exact_to_float32(isa: str) -> None:
    x = _x(np.random.default_rng(0), 3, 100_000) + 1
    for axes in ((1,), (0,)):
        assert_matches("sum", [x], {"axes": axes}, 1e-7, threads=2)


def test_argmax_and_top_k_with_ties_and_nan(isa: str) -> None:
    x = np.array([[1, 3, 3, 2], [0, np.nan, 5, np.nan], [-1, -1, -1, -1]], np.float32)
    assert_matches("argmax", [x], {"axis": 1})
    assert_matches("argmax", [x], {"axis": 0})
    for k in (0, 1, 3, 4):
        assert_matches("top_k", [x], {"k": k})


def test_top_k_of_many(isa: str) -> None:
    assert_matches("top_k", [_x(np.random.default_rng(0), 20, 3000)], {"k": 50}, threads=2)


@pytest.mark.parametrize("bad", [-1, 9])
def test_embedding_refuses_ids_outside_the_table(isa: str, bad: int) -> None:
    table = np.ones((9, 4), np.float32)
    with pytest.raises(InputError, match=f"index {bad} is outside an axis of 9"):
        run_native("embedding", [table, np.array([3, bad, 2])], {})


def test_indices_count_from_the_end(isa: str) -> None:
    x = _x(np.random.default_rng(0), 5, 6)
    assert_matches("gather", [x, np.array([-1, 2, -5], np.int32)], {"axis": 0})
    assert_matches("take_along", [x, np.array([[-1], [2], [0], [5], [-6]])], {"axis": 1})
    assert_matches("scatter", [x, np.float32([1, 2]), np.array([-1, 0]), np.array([1, -2])], {})
    for bad in (-6, 5):
        with pytest.raises(InputError, match="outside an axis of 5"):
            run_native("gather", [x, np.array([bad])], {"axis": 0})


@pytest.mark.parametrize("dtype", ["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool"])
def test_moves_take_every_type(isa: str, dtype: str) -> None:
    from forgec.ir.types import DType

    x = np.random.default_rng(0).integers(0, 2, (6, 40, 20)).astype(DType(dtype).numpy)
    turned = x.transpose(0, 2, 1)
    for op, operands, attrs in (
        ("copy", [turned], {}),
        ("flip", [turned], {"axes": (0, 2)}),
        ("concat", [turned, turned[:, :3]], {"axis": 1}),
        ("gather", [turned, np.array([3, 1])], {"axis": 1}),
        ("where", [np.array([[True], [False]] * 10), turned, np.ascontiguousarray(turned[::-1])], {}),
    ):
        (got,) = run_native(op, operands, attrs, threads=2)
        from forgec.ir.op import get

        (want,) = get(op).evaluate(operands, attrs)
        np.testing.assert_array_equal(got.view(np.uint8), np.ascontiguousarray(want).view(np.uint8))
