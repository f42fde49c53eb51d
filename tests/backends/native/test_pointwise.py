"""Point-wise ops: special values, accuracy over the whole range, broadcasting, integer types, in place."""

from __future__ import annotations

import numpy as np
import pytest
from native_runs import assert_matches, reference, run_native, strided

from forgec.ir.op import get
from forgec.ir.types import DType

SPECIAL = np.array(
    [
        "0",
        "-0.0",
        "1",
        "-1",
        "0.5",
        "1.5",
        "2.5",
        "-2.5",
        "1e-40",
        "-1e-40",
        "1e-30",
        "80",
        "-80",
        "88.8",
        "90",
        "-104",
        "1e30",
        "-1e30",
        "inf",
        "-inf",
        "nan",
        "3.4e38",
        "-3.4e38",
    ],
    np.float32,
)
SMOOTH = ["exp", "tanh", "erf", "sigmoid", "silu", "gelu", "gelu_tanh", "softplus", "sin", "cos"]
UNARY = [
    "neg",
    "abs",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "log",
    "relu",
    "floor",
    "ceil",
    "round",
    "sign",
    *SMOOTH,
]
BINARY = ["add", "sub", "mul", "div", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge"]
INTEGERS = ["i64", "i32", "i16", "i8", "u8"]


def _ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Distance in units in the last place of the wanted float32, at least of the smallest normal number."""
    size = np.maximum(np.abs(want), np.finfo(np.float32).tiny).astype(np.float32)
    unit = np.spacing(size).astype(np.float64)
    return np.abs(got.astype(np.float64) - want) / unit


@pytest.mark.parametrize("op", ["gelu", "gelu_tanh", "silu"])
def test_activations_to_a_unit_of_one(isa: str, op: str) -> None:
    """Relative to the input, which is what a product's sums are exact to; next to 0 relative to the result."""
    x = np.concatenate([np.linspace(-40, 40, 200_001), np.linspace(-1, 1, 200_001)]).astype(np.float32)
    (got,), (want,) = run_native(op, [x], {}), reference(op, [x], {})
    error = np.abs(got - want)
    assert (error / np.maximum(np.abs(x), 1)).max() <= 1.5e-7
    near = np.abs(x) < 0.5
    assert _ulps(got, want)[near].max() <= 4


@pytest.mark.parametrize(("op", "bound"), [("exp", 2), ("tanh", 3), ("erf", 2), ("sigmoid", 4)])
def test_accuracy(isa: str, op: str, bound: float) -> None:
    x = np.concatenate(
        [np.linspace(-87, 88.7, 200_001), np.linspace(-1, 1, 200_001), np.logspace(-30, 0, 999)]
    )
    x = x.astype(np.float32)
    (got,), (want,) = run_native(op, [x], {}), reference(op, [x], {})
    ulps = _ulps(got, want)
    assert ulps.max() <= bound, f"{ulps.max()} ulp at {x[ulps.argmax()]}"


@pytest.mark.parametrize("op", ["silu", "gelu", "gelu_tanh"])
def test_activations_are_accurate_to_their_argument(isa: str, op: str) -> None:
    x = np.linspace(-20, 20, 400_001).astype(np.float32)
    (got,), (want,) = run_native(op, [x], {}), reference(op, [x], {})
    error = np.abs(got - want) / np.maximum(np.abs(x), 1e-3)
    assert error.max() < 3e-7


@pytest.mark.parametrize("op", UNARY)
def test_special_values(isa: str, op: str) -> None:
    """Against float32, because float64 has no overflow where float32 has."""
    (got,) = run_native(op, [SPECIAL], {})
    (want,) = get(op).evaluate([SPECIAL], {})
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=1e-5 if op not in ("sin", "cos") else 1e-4, atol=1e-37)


@pytest.mark.parametrize("op", [*BINARY, "pow", "mod", "floor_div"])
def test_special_pairs(isa: str, op: str) -> None:
    a, b = SPECIAL[:, None], SPECIAL[None, :]
    (got,) = run_native(op, [a, b], {})
    with np.errstate(all="ignore"):
        (want,) = get(op).evaluate([a, b], {})
    if got.dtype == np.bool_:
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("op", ["sub", "maximum", "lt"])
def test_broadcasting(isa: str, op: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = [int(n) for n in rng.integers(1, 20, rng.integers(1, 5))]
    shapes = [
        [n if rng.random() < 0.7 else 1 for n in shape][int(rng.integers(len(shape))) :] for _ in range(2)
    ]
    a, b = (strided(rng, rng.standard_normal(s).astype(np.float32)) for s in shapes)
    assert_matches(op, [a, b], {}, threads=1 + seed % 2)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "maximum"])
def test_numbers_beside_rows(isa: str, op: str) -> None:
    """One number for each row or for all, on either side or both, of lengths with and without a tail."""
    rng = np.random.default_rng(3)
    for columns in (32, 45, 600):
        x = strided(rng, rng.standard_normal((3, 5, columns)).astype(np.float32))
        for shape in ((3, 5, 1), (5, 1), (3, 1, 1), (1,), ()):
            number = np.asarray(rng.standard_normal(shape).astype(np.float32))
            assert_matches(op, [x, number], {})
            assert_matches(op, [number, x], {})
            wide = np.broadcast_to(number, x.shape)
            assert_matches(op, [wide, number], {})
            assert_matches(op, [number, wide], {})


def test_large_operands_that_lie_along_another_axis(isa: str) -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((40, 30, 50)).astype(np.float32)
    for axes in ((2, 0, 1), (1, 2, 0), (0, 2, 1), (2, 1, 0)):
        turned = x.transpose(axes)
        beside = rng.standard_normal(turned.shape).astype(np.float32)
        assert_matches("mul", [turned, beside], {}, threads=2)
        assert_matches("sub", [beside, turned], {}, threads=1)
        assert_matches("where", [beside > 0, turned, turned[:1]], {}, threads=2)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float16, np.bool_])
def test_a_choice_by_one_condition(isa: str, dtype: type) -> None:
    rng = np.random.default_rng(4)
    x, y = (rng.integers(0, 9, (7, 300)).astype(dtype) for _ in range(2))
    for condition in (np.array(True), np.array(False), np.array([[True]]), rng.random((7, 1)) < 0.5):
        for a, b in ((x, y), (x, y[:, :1]), (x[:1], y), (x[:1, :1], y[0, 0])):
            out = np.empty(np.broadcast_shapes(condition.shape, np.shape(a), np.shape(b)), dtype)
            operands = [np.asarray(condition), np.asarray(a), np.asarray(b)]
            run_native("where", operands, {}, outputs=[out])
            np.testing.assert_array_equal(out, np.where(*operands))


def test_large_arrays_on_threads(isa: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((70, 1000)).astype(np.float32)
    for b in (a[:1] + 1, np.ascontiguousarray(a[:, :1]), 2.0, a.T.copy().T):
        for threads in (1, 2):
            assert_matches("mul", [a, b], {}, threads=threads)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", [*(op for op in BINARY if op != "div"), "floor_div", "mod"])
def test_integers(isa: str, op: str, dtype: str) -> None:
    info = np.iinfo(DType(dtype).numpy)
    edges = [info.min, info.max, 0, 1, 2, 3, 7] + ([-1, -2, -7] if info.min else [])
    a, b = np.array(edges, info.dtype)[:, None], np.array(edges, info.dtype)[None, :]
    with np.errstate(all="ignore"):
        assert_matches(op, [a, b], {})


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", ["neg", "abs", "relu", "sign", "floor"])
def test_integer_unary(isa: str, op: str, dtype: str) -> None:
    info = np.iinfo(DType(dtype).numpy)
    assert_matches(op, [np.array([info.min, info.max, 0, 1, 5], info.dtype)], {})


@pytest.mark.parametrize("source", [d.value for d in DType if d is not DType.I4])
@pytest.mark.parametrize("target", [d.value for d in DType if d is not DType.I4])
def test_casts(isa: str, source: str, target: str) -> None:
    values = np.array([0, 1, 2, 3, 100, 127], np.float64)
    if source in ("f64", "f32", "f16", "bf16"):
        values = np.concatenate([values, [0.3, 1.7, 2049.5, 65504, 1e-6, 1 / 3]])
        if target in ("f64", "f32", "f16", "bf16"):
            values = np.concatenate([values, -values, [np.inf, -np.inf, 1e30, 70000.0]])
    if target in ("i8", "u8", "i16"):
        values = values[values <= 127]
    with np.errstate(all="ignore"):
        x = values.astype(DType(source).numpy)
        (want,) = get("cast").evaluate([x], {"dtype": target})
    (got,) = run_native("cast", [x], {"dtype": target})
    np.testing.assert_array_equal(got, want)


def test_half_floats_round_to_even(isa: str) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32)
    x = bits.view(np.float32)
    x = x[np.isfinite(x)]
    for target in ("f16", "bf16"):
        with np.errstate(all="ignore"):
            want = x.astype(DType(target).numpy)
        (got,) = run_native("cast", [x], {"dtype": target})
        np.testing.assert_array_equal(got.view(np.uint16), want.view(np.uint16))
        (back,) = run_native("cast", [want], {"dtype": "f32"})
        np.testing.assert_array_equal(back, want.astype(np.float32))


def test_in_place(isa: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 33, 50)).astype(np.float32)
    for which in (0, 1):
        operands = [a.copy(), b.copy()]
        run_native("sub", operands, {}, outputs=[operands[which]], runs=1, threads=2)
        np.testing.assert_array_equal(operands[which], a - b)
    x = a.copy()
    run_native("clamp", [x], {"low": -0.5, "high": 0.25}, outputs=[x], runs=1)
    np.testing.assert_array_equal(x, np.clip(a, -0.5, 0.25))
    total, out = a.copy(), b.copy()
    run_native("add_rms_norm", [total, out, None], {}, outputs=[total, out], runs=1)
    want = get("add_rms_norm").evaluate([a, b, None], {})
    np.testing.assert_allclose(total, want[0], rtol=1e-6)
    np.testing.assert_allclose(out, want[1], rtol=1e-5)


@pytest.mark.parametrize("columns", [2, 5, 31, 32])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_short_rows(isa: str, columns: int, dtype: type) -> None:
    """Rows that lie apart, beside a number for each, a row for all, and each other: several to a run."""
    rng = np.random.default_rng(columns)
    shape = (7, 61, columns)
    wide = rng.integers(-99, 99, (7, 61, columns + 3)).astype(dtype)
    for other in ((7, 61, 1), (1, 1, columns), (61, columns), shape, ()):
        operands = [wide[..., :columns], rng.integers(-99, 99, other).astype(dtype)]
        assert_matches("mul", operands, {}, 0, threads=2)
    chosen = [rng.random(shape) < 0.5, wide[..., 3:], wide[..., :columns]]
    assert_matches("where", chosen, {}, 0)
