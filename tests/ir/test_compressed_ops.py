"""Compressed weights in the IR: what codes mean, the type i4, what the rules refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgec.errors import ParseError, VerifyError
from forgec.ir.op import IRTypeError, get
from forgec.ir.ops.compressed import dequantise
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.recipes import evaluate
from forgec.ir.types import DType, TensorType, pack_i4, unpack_i4
from forgec.ir.verifier import verify

F32 = np.dtype(np.float32)

TEXT = """program @main(r0 "x": f32[2,8], r1 "ids": i64[3]) -> (r2 "y": f32[2,5], r3 "z": f32[3,8]) {
  const c0: i4[5,8] = quantise("w": f32[5,8], scales("w": f32[5,8]) {bits=4, group=8}) {bits=4, group=8}
  const c1: f32[1,5] = scales("w": f32[5,8]) {bits=4, group=8}
  const c2: bf16[9,8] = cast("table": f32[9,8]) {dtype="bf16"}
  r2: f32[2,5] = linear_q r0, c0, c1 {group=8}
  r3: f32[3,8] = embedding_q c2, r1
  return r2, r3
}
"""


def quantised(weight: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    attrs = {"bits": bits, "group": group}
    (scales,) = get("scales").evaluate((weight,), attrs)
    (codes,) = get("quantise").evaluate((weight, scales), attrs)
    return codes, scales


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([0, 8, 32]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    seed=st.integers(0, 2**32 - 1),
)
def test_rounding_is_to_the_nearest_code(bits: int, group: int, shape: tuple[int, int], seed: int) -> None:
    rows, half = shape
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((rows, 2 * half)) * 10.0 ** rng.integers(-3, 3)).astype(np.float32)
    weight[rng.random(weight.shape) < 0.1] = 0
    codes, scales = quantised(weight, bits, group)
    assert TensorType.of(codes) == TensorType(DType.I4 if bits == 4 else DType.I8, weight.shape)
    step = np.repeat(np.abs(scales.T), group or 2 * half, axis=1)[:, : 2 * half]
    error = np.abs(dequantise(codes, scales, group, F32) - weight)
    # The end of the range that the largest magnitude does not have is one code shorter in four bits.
    room = np.where(bits == 4, 1.0, 0.5)
    assert (error <= step * room * (1 + 1e-5)).all()
    inside = np.abs(weight) <= (7 if bits == 4 else 127) * step
    assert (error <= step * (0.5 + 1e-4))[inside].all()


def test_extremes_keep_their_values_and_zeros_stay() -> None:
    weight = np.array([[3.0, -1.5, 0, 0.75], [0, 0, 0, 0], [-2, 1, 0.5, 0.25]], np.float32)
    for bits in (4, 8):
        codes, scales = quantised(weight, bits, 0)
        got = dequantise(codes, scales, 0, F32)
        np.testing.assert_allclose(got[[0, 2], [0, 0]], [3, -2], rtol=1e-6)
        assert not got[1].any() and scales[0, 1] == 0


def test_a_row_that_is_not_finite_shows() -> None:
    weight = np.ones((3, 4), np.float32)
    weight[0, 1], weight[1, 2] = np.nan, np.inf
    codes, scales = quantised(weight, 8, 0)
    with np.errstate(invalid="ignore"):
        got = dequantise(codes, scales, 0, F32)
    assert not np.isfinite(got[:2]).any() and np.isfinite(got[2]).all()


def test_i4_pairs() -> None:
    numbers = np.arange(-8, 8, dtype=np.int8).reshape(2, 8)
    packed = pack_i4(numbers)
    assert TensorType.of(packed) == TensorType(DType.I4, (2, 8)) and packed.nbytes == 8
    assert TensorType.of(packed).nbytes == 8
    assert packed.view(np.uint8)[0, 0] == (8 | 9 << 4)
    np.testing.assert_array_equal(unpack_i4(packed), numbers)
    np.testing.assert_array_equal(unpack_i4(packed[:, ::2]), numbers.reshape(2, 4, 2)[:, ::2].reshape(2, 4))


def test_dynamic_rows_are_exact_integers() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, 3000)).astype(np.float32) * 50
    weight = rng.integers(-127, 128, (6, 3000), np.int8)
    scales = rng.random((1, 6)).astype(np.float32)
    (got,) = get("linear_q").evaluate((x, weight, scales, None, None), {"dynamic": True})
    for i, row in enumerate(x):
        largest = np.abs(row).max()
        codes = [int(v) for v in np.rint(row * (np.float32(127) / largest))]
        for j in range(6):
            total = sum(a * int(b) for a, b in zip(codes, weight[j], strict=True))
            assert got[i, j] == np.float32(total) * (largest / np.float32(127) * scales[0, j])


def test_dynamic_rows_at_the_edges() -> None:
    x = np.zeros((5, 4), np.float32)
    x[1, 2], x[2, 0], x[3, 0], x[4, 1] = np.nan, np.inf, 1e-40, -3
    weight = np.full((2, 4), 127, np.int8)
    (got,) = get("linear_q").evaluate((x, weight, np.ones((1, 2), np.float32), None, None), {"dynamic": True})
    assert np.isnan(got[1:3]).all() and not got[[0, 3]].any()
    np.testing.assert_allclose(got[4], -381, rtol=1e-6)


def test_dynamic_groups_are_exact_integers_with_scales_of_their_own() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, 40)).astype(np.float32)
    x[1, :16] = 0
    x[2, 39] = np.inf
    weight = rng.integers(-8, 8, (6, 40), np.int8)
    scales = rng.random((3, 6)).astype(np.float32)
    operands = (x, pack_i4(weight), scales, None, None)
    (got,) = get("linear_q").evaluate(operands, {"dynamic": True, "group": 16})
    for i, row in enumerate(x):
        for j in range(6):
            total = np.float32(0)
            for group, part in enumerate((slice(0, 16), slice(16, 32), slice(32, 40))):
                largest = np.abs(row[part]).max()
                factor = np.float32(127) / largest if 0 < largest < np.inf else np.float32(0)
                codes = np.rint(np.where(np.isfinite(row[part]), row[part], 0) * factor).astype(int)
                products = np.float32(codes @ weight[j, part].astype(int))
                if np.isfinite(largest):
                    total += products * (largest / np.float32(127) * scales[group, j])
            assert np.isnan(got[i, j]) if i == 2 else got[i, j] == total


def test_text_and_recipes() -> None:
    program = parse(TEXT)
    verify(program)
    assert to_text(program) == TEXT
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 8)).astype(np.float32)
    codes = evaluate(program.constants["c0"].recipe, lambda name: weight)
    assert TensorType.of(codes) == TensorType(DType.I4, (5, 8))


@pytest.mark.parametrize(
    ("old", "new", "rule", "said"),
    [
        ('(r0 "x": f32[2,8]', '(r0 "x": i4[2,8]', "V3", "r0 is i4"),
        ("  return", "  r4: i4[2,8] = copy c0\n  return", "V9", "copy does not compute with i4"),
        ("  return", "  r4: i4[5,8] = quantise r0, c1 {bits=4}\n  return", "V9", "scales"),
        ("linear_q r0, c0, c1 {group=8}", "linear_q r0, c0, c1 {group=4}", "V9", "multiple of 8"),
        ("linear_q r0, c0, c1 {group=8}", "linear_q r0, c0, _ {group=8}", "V9", "scales"),
        ("  return", "  r4: i4[5,8] = add c0, 1\n  return", "V7|V8|V9", "i4"),
    ],
)
def test_what_the_verifier_refuses(old: str, new: str, rule: str, said: str) -> None:
    with pytest.raises(VerifyError, match=f"(?s)({rule}).*{said}"):
        verify(parse(TEXT.replace(old, new)))


def test_an_odd_row_of_i4_is_no_type() -> None:
    with pytest.raises(ParseError, match="no even last axis"):
        parse(TEXT.replace("i4[5,8]", "i4[5,7]"))
    with pytest.raises(IRTypeError, match="even"):
        get("quantise").result_types(
            [TensorType(DType.F32, (2, 7)), TensorType(DType.F32, (1, 2))], {"bits": 4}
        )


def test_a_state_is_not_i4() -> None:
    text = TEXT.replace("  r2: f32[2,5] =", "  state s0: i4[2,8]\n  r2: f32[2,5] =")
    with pytest.raises(VerifyError, match="V3: state s0 is i4"):
        verify(parse(text))


def test_rows_too_long_for_exact_sums_are_refused() -> None:
    depth = (1 << 16) + 4
    types = [
        TensorType(DType.F32, (1, depth)),
        TensorType(DType.I8, (2, depth)),
        TensorType(DType.F32, (1, 2)),
    ]
    with pytest.raises(IRTypeError, match="too many"):
        get("linear_q").result_types([*types, None, None], {"dynamic": True})
    four = [types[0], TensorType(DType.I4, (2, depth)), TensorType(DType.F32, (1025, 2)), None, None]
    assert get("linear_q").result_types(four, {"dynamic": True, "group": 64})
    with pytest.raises(IRTypeError, match="i8 rows, not"):
        four[1] = types[1]
        get("linear_q").result_types(four, {"dynamic": True, "group": 64})
