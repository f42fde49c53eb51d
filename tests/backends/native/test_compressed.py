"""Products with compressed weights, natively, against the reference in float64 and in exact integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from forgec.backends.cpu import native
from forgec.backends.cpu.native import compressed
from forgec.backends.cpu.native.binding import NativeStep
from forgec.backends.cpu.native.machine import allocate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_runs import instruction, packed_operands_of, strided, team
from tiers import slow_after

from forgec.errors import InputError
from forgec.ir.op import get
from forgec.ir.ops.compressed import MAX_DYNAMIC_DEPTH
from forgec.ir.program import ConstRef, Instr, Register
from forgec.ir.types import HALVES, DType, TensorType, pack_i4, unpack_i4

ISAS = native.isas() if native.available() is None else []
HALF = {"bf16": DType.BF16, "f16": DType.F16}
FORMATS = ["i8", "i8 groups", "i4", *HALF, "dynamic", "dynamic i4"]
ACTS = ["", "gelu", "gelu_tanh", "relu", "silu", "sigmoid", "tanh"]


def _x(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def weight_of(
    rng: np.random.Generator, kind: str, n: int, depth: int, group: int
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Codes that use their whole range, scales and attributes."""
    if kind in HALF:
        weight = _x(rng, n, depth) / np.float32(max(depth, 1) ** 0.5)
        return weight.astype(HALF[kind].numpy), None, {}
    four = kind.endswith("i4")
    group = group if four or kind == "i8 groups" else 0
    groups = -(-depth // group) if group else 1
    scales = _x(rng, groups, n) / np.float32((8 if four else 127) * max(depth, 1) ** 0.5)
    attrs = {"group": group, "dynamic": kind.startswith("dynamic")}
    if four:
        return pack_i4(rng.integers(-8, 8, (n, depth), np.int8)), scales, attrs
    codes = rng.integers(-128, 128, (n, depth), np.int8)
    return codes, scales, attrs


def run(
    operands: list[Any], attrs: dict[str, Any], out: np.ndarray, *, packed: bool, threads: int
) -> np.ndarray:
    instr = instruction("linear_q", operands, attrs, (1, 2) if packed else ())
    step = NativeStep(team(threads))
    reason = step.add(instr, operands, [out], packed_operands_of(instr, operands))
    assert reason is None, reason
    step()
    return out


def expected(operands: list[Any], attrs: dict[str, Any]) -> np.ndarray:
    """In float64; with dynamic rows in f32, whose integers are exact."""
    wide = [
        x.astype(np.float64)
        if isinstance(x, np.ndarray) and x.dtype == np.float32 and not attrs.get("dynamic")
        else x
        for x in operands
    ]
    if operands[2] is None:
        wide[1] = operands[1].astype(np.float64)
        return get("linear").evaluate([wide[0], wide[1], *wide[3:]], {"act": attrs.get("act", "")})[0]
    return get("linear_q").evaluate(wide, attrs)[0]


def check(got: np.ndarray, want: np.ndarray) -> None:
    finite = np.isfinite(want)
    scale = max(1.0, float(np.abs(want[finite]).max(initial=0.0)))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=5e-6, atol=5e-6 * scale)


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.one_of(st.integers(0, 9), st.integers(10, 70)),
    n=st.integers(1, 100),
    depth=st.one_of(st.integers(1, 40), st.integers(41, 700)),
    group=st.sampled_from([8, 24, 32, 64, 128]),
    seed=st.integers(0, 2**32 - 1),
)
def test_generated_products(
    isa: str, kind: str, rows: int, n: int, depth: int, group: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    depth += depth % 2 if kind.endswith("i4") else 0
    codes, scales, attrs = weight_of(rng, kind, n, depth, group)
    lead = (rows,) if rng.random() < 0.7 else (1, rows, 1)
    with_residual = bool(rng.random() < 0.3)
    attrs["act"] = "" if with_residual else ACTS[int(rng.integers(len(ACTS)))]
    operands = [
        strided(rng, _x(rng, *lead, depth)),
        codes,
        scales,
        _x(rng, n) if rng.random() < 0.5 else None,
        strided(rng, _x(rng, *lead, n)) if with_residual else None,
    ]
    want = expected(operands, attrs)
    for packed, threads in ((True, 1), (True, 2), (False, 1)):
        out = np.full((*lead, n), 113, np.float32)
        check(run(operands, attrs, out, packed=packed, threads=threads), want)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rows", [1, 4, 5, 14, 15, 200])
def test_whole_tiles_and_panels(isa: str, kind: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    codes, scales, attrs = weight_of(rng, kind, 96, 1024, 128)
    operands = [_x(rng, rows, 1024), codes, scales, _x(rng, 96), None]
    out = np.empty((rows, 96), np.float32)
    check(run(operands, attrs, out, packed=True, threads=2), expected(operands, attrs))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_panels_of_few_rows_are_divided_without_a_gap(isa: str, kind: str, threads: int) -> None:
    rng = np.random.default_rng(threads)
    codes, scales, attrs = weight_of(rng, kind, 1000, 272, 32)
    operands = [_x(rng, 2, 272), codes, scales, None, None]
    out = np.full((2, 1000), 113, np.float32)
    check(run(operands, attrs, out, packed=True, threads=threads), expected(operands, attrs))


@pytest.mark.parametrize(
    ("kind", "offset"), slow_after(1, [("i8", 16), ("dynamic", 16), ("i8", 0), ("dynamic", 0)])
)
def test_results_larger_than_caches(isa: str, kind: str, offset: int) -> None:
    """At the start of a line and beside it, with columns that are no whole panel."""
    rng = np.random.default_rng(offset)
    rows, n = 36, 262_160
    codes, scales, attrs = weight_of(rng, kind, n, 16, 0)
    operands = [_x(rng, rows, 16), codes, scales, _x(rng, n), None]
    out = allocate(rows * n * 4 + offset)[offset:].view(np.float32).reshape(rows, n)
    check(run(operands, attrs, out, packed=True, threads=2), expected(operands, attrs))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rows", [1, 20])
def test_residual_in_place(isa: str, kind: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    codes, scales, attrs = weight_of(rng, kind, 70, 300, 32)
    x, bias, place = _x(rng, rows, 300), _x(rng, 70), _x(rng, rows, 70)
    want = expected([x, codes, scales, bias, place.copy()], attrs)
    check(run([x, codes, scales, bias, place], attrs, place, packed=True, threads=2), want)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rows", [1, 20])
def test_values_that_are_not_finite(isa: str, kind: str, rows: int) -> None:
    rng = np.random.default_rng(5)
    codes, scales, attrs = weight_of(rng, kind, 40, 70, 32)
    x = _x(rng, rows + 3, 70)
    x[0, 69], x[1, 3], x[2] = np.nan, np.inf, 0
    for part in (x[:1], x[1:2], x[2:3], x):
        operands = [part, codes, scales, None, None]
        got = run(operands, attrs, np.empty((len(part), 40), np.float32), packed=True, threads=1)
        want = expected(operands, attrs)
        finite = np.isfinite(want)
        np.testing.assert_array_equal(np.isfinite(got), finite)
        check(got[finite.all(axis=1)], want[finite.all(axis=1)])


@pytest.mark.parametrize("kind", ["i8", "i8 groups", "i4", *HALF])
@pytest.mark.parametrize("rows", [1, 4, 20])
def test_rows_of_floats_keep_their_bits(isa: str, kind: str, rows: int) -> None:
    """Of any size: where they are split into digits, a third one is needed, and tiny rows have none to split."""
    rng = np.random.default_rng(rows)
    codes, scales, attrs = weight_of(rng, kind, 70, 512, 128)
    x = _x(rng, rows, 512)
    x[:, 128:256] = 0
    for size in (1.0, 1e30, 1e-18, 1e-25, 1e-34):
        operands = [x * np.float32(size), codes, scales, None, None]
        got = run(operands, attrs, np.empty((rows, 70), np.float32), packed=True, threads=2)
        want = expected(operands, attrs)
        assert np.sqrt(np.mean((got / size - want / size) ** 2)) < 1e-6 * np.sqrt(np.mean((want / size) ** 2))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("value", [np.inf, np.nan, 1e30, 1e-39, 1e-25])
def test_columns_of_bf16_of_any_size(isa: str, value: float, packed: bool) -> None:
    """A matrix unit takes denormal numbers for zero, and finds no rest of an infinity; runs are alike."""
    rng = np.random.default_rng(3)
    codes, _, attrs = weight_of(rng, "bf16", 70, 300, 0)
    codes[40] = np.zeros(300)
    codes[40, 150:160] = value
    codes[41] = np.zeros(300)
    operands = [_x(rng, 37, 300) * np.float32(1e-3), codes, None, None, None]
    instr = instruction("linear_q", operands, attrs, (1, 2) if packed else ())
    out, step = np.empty((37, 70), np.float32), NativeStep(team(2))
    assert step.add(instr, operands, [out], packed_operands_of(instr, operands)) is None
    want = expected(operands, attrs)
    for _ in range(2):
        out[:] = 113
        step()
        regular = np.delete(np.arange(70), 40)
        check(out[:, regular], want[:, regular])
        np.testing.assert_array_equal(np.isfinite(out[:, 40]), np.isfinite(want[:, 40]))
        if np.isfinite(value):
            np.testing.assert_allclose(out[:, 40] / value, want[:, 40] / value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("kind", HALF)
@pytest.mark.parametrize("packed", [False, True])
def test_every_number_of_16_bits(isa: str, rows: int, kind: str, packed: bool) -> None:
    """Each is a weight that is multiplied by 1, and the others of its column by 0: denormal ones are kept."""
    every = np.arange(1 << 16, dtype=np.uint16).view(HALF[kind].numpy).astype(np.float32)
    fits = np.isfinite(every)
    if kind == "bf16" and isa == "amx":
        fits &= np.abs(every) >= np.finfo(np.float32).tiny
    numbers = np.zeros(1 << 16, np.float32)
    numbers[fits] = every[fits]
    x = np.zeros((rows, 64), np.float32)
    x[np.arange(rows), (np.arange(rows) * 7 + 3) % 64] = 1
    codes = numbers.reshape(1024, 64).astype(HALF[kind].numpy)
    got = run([x, codes, None, None, None], {}, np.empty((rows, 1024), np.float32), packed=packed, threads=2)
    np.testing.assert_array_equal(got, x @ numbers.reshape(1024, 64).T)


@pytest.mark.parametrize("rows", [3, 20])
def test_dynamic_rows_are_exact_at_the_ends_of_the_range(isa: str, rows: int) -> None:
    """Sums of the largest products, which a saturating instruction would cut off."""
    depth = 4096
    x = np.tile(np.float32([5, -5, 5, 5]), (rows, depth // 4))
    x[1] = 5
    codes = np.full((33, depth), 127, np.int8)
    codes[1], codes[2] = -127, -128
    operands = [x, codes, np.ones((1, 33), np.float32), None, None]
    got = run(operands, {"dynamic": True}, np.empty((rows, 33), np.float32), packed=True, threads=1)
    np.testing.assert_array_equal(got, get("linear_q").evaluate(operands, {"dynamic": True})[0])
    assert got[1, 0] == np.float32(127 * 127 * depth) * np.float32(5 / 127)
    assert got[1, 2] == np.float32(127 * -128 * depth) * np.float32(5 / 127)


@pytest.mark.parametrize("kind", ["i8", "i8 groups", "dynamic"])
@pytest.mark.parametrize("rows", [1, 3, 4, 7, 20, 70])
@pytest.mark.parametrize("depth", slow_after(1, [4096, MAX_DYNAMIC_DEPTH]))
def test_codes_of_minus_128_with_extreme_rows(isa: str, kind: str, rows: int, depth: int) -> None:
    """Every code the least, with rows of one sign, of both, and of largest values beside the smallest: no sum wraps
    or is cut off, up to the longest row. Rows of 127 are their own codes, so that rounding them changes nothing."""
    x = np.full((rows, depth), 127, np.float32)
    x[rows // 2] = -127
    x[rows - 1, ::2] = -127
    if kind != "dynamic":
        x[rows // 3] *= np.float32(2.0**80)
        x[rows // 3, 1::2] = 2.0**-80
    codes = np.full((37, depth), -128, np.int8)
    codes[5], codes[6, ::3] = 127, 127
    group = 32 if kind == "i8 groups" else 0
    scales = np.full((depth // (group or depth), 37), 2.0**-7, np.float32)
    attrs = {"group": group, "dynamic": kind == "dynamic"}
    operands = [x, codes, scales, None, None]
    exact = x.astype(np.float64) @ (codes.astype(np.float64) * 2.0**-7).T
    sizes = np.abs(x.astype(np.float64)) @ (np.abs(codes.astype(np.float64)) * 2.0**-7).T
    # Long sums of one value lose bits in floats; a code that is one off is 8e-3.
    bound = 2e-6 if kind == "dynamic" else 1e-3
    for packed, threads in ((True, 1), (True, 2), (False, 1)):
        got = run(operands, attrs, np.empty((rows, 37), np.float32), packed=packed, threads=threads)
        assert (np.abs(got - exact) <= bound * sizes).all()


@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("group", [0, 32, 1024])
def test_dynamic_groups_are_exact_at_the_ends_of_the_range(isa: str, rows: int, group: int) -> None:
    """Scales of one make sums of whole numbers, which sums of 16 bits that are kept too long would wrap."""
    depth = 4096
    x = np.full((rows, depth), 127, np.float32)
    x[:, 64:128], x[rows - 1, ::2] = -127, -127
    four = np.full((33, depth), 7, np.int8)
    four[0], four[2, 1::2] = -8, -8
    operands = [x, pack_i4(four), np.ones((-(-depth // (group or depth)), 33), np.float32), None, None]
    attrs = {"group": group, "dynamic": True}
    got = run(operands, attrs, np.empty((rows, 33), np.float32), packed=True, threads=1)
    np.testing.assert_array_equal(got, x.astype(np.float64) @ four.T.astype(np.float64))


@pytest.mark.skipif(
    "amx" not in ISAS, reason="runs where the processor has AMX and the system lets a process use it"
)
@pytest.mark.parametrize("kind", ["dynamic", "dynamic i4"])
@pytest.mark.parametrize("rows", [2, 15, 16, 17, 33, 70, 300])
def test_a_matrix_unit_gives_the_bits_of_vectors(
    kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of integers are exact, with all tails of rows, columns, steps, groups and chunks of these."""
    rng = np.random.default_rng(rows)
    for n, depth, group in (
        (32, 64, 32),
        (70, 96, 64),
        (31, 130, 128),
        (97, 1544, 32),
        (64, 1030, 96),
        (33, 20, 0),
    ):
        codes, scales, attrs = weight_of(rng, kind, n, depth, group)
        attrs["act"] = ACTS[int(rng.integers(len(ACTS)))]
        bias = (
            _x(rng, n) if kind == "dynamic" else None
        )  # of one group it may be added before or after rounding
        operands = [_x(rng, rows, depth), codes, scales, bias, None]
        results = []
        for isa in ("avx512vnni", "amx"):
            monkeypatch.setenv("FORGEC_ISA", isa)
            out = np.full((rows, n), 113, np.float32)
            results.append(run(operands, attrs, out, packed=True, threads=2))
        np.testing.assert_array_equal(*results)


def test_dynamic_groups_have_scales_of_their_own(isa: str) -> None:
    """A value a thousand times as large as those of another group costs that group nothing."""
    rng = np.random.default_rng(4)
    x = _x(rng, 5, 128)
    x[:, 3] = 4000
    codes, scales, attrs = weight_of(rng, "dynamic i4", 20, 128, 32)
    assert scales is not None
    scales[0] = 0
    operands = [x, codes, scales, None, None]
    got = run(operands, attrs, np.empty((5, 20), np.float32), packed=True, threads=1)
    check(got, expected(operands, attrs))
    exact = x.astype(np.float64) @ (unpack_i4(codes) * np.repeat(scales.T, 32, axis=1)).T
    assert np.abs(got - exact).max() < 0.02 * np.abs(exact).max()


def test_empty_products(isa: str) -> None:
    for kind in FORMATS:
        rng = np.random.default_rng(0)
        codes, scales, attrs = weight_of(rng, kind, 5, 0, 32)
        if scales is not None and attrs["group"]:
            scales = np.zeros((0, 5), np.float32)
        operands = [np.zeros((3, 0), np.float32), codes, scales, np.arange(5, dtype=np.float32), None]
        got = run(operands, attrs, np.empty((3, 5), np.float32), packed=True, threads=1)
        np.testing.assert_array_equal(got, np.tile(operands[3], (3, 1)))


@pytest.mark.parametrize("kind", ["i8", "i8 groups", "i4", *HALF])
@pytest.mark.parametrize("packed", [False, True])
def test_embedding(isa: str, kind: str, packed: bool) -> None:
    rng = np.random.default_rng(2)
    table, scales, attrs = weight_of(rng, kind, 50, 42, 32)
    ids = rng.integers(0, 50, (7, 3))
    attrs = {"group": attrs.get("group", 0)}
    operands = [table, ids, scales]
    instr = instruction("embedding_q", operands, attrs)
    out = np.empty((7, 3, 42), np.float32)
    step = NativeStep(team(2))
    assert step.add(instr, operands, [out], {0: compressed.pack(table)} if packed else {}) is None
    step()
    np.testing.assert_array_equal(out, get("embedding_q").evaluate(operands, attrs)[0])
    ids[0, 0] = 50
    with pytest.raises(InputError, match="index 50 is outside an axis of 50"):
        step()


def test_layouts(isa: str) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (40, 6), np.int8)
    packed = compressed.pack(codes)
    padded = np.zeros((64, 8), np.int8)
    padded[:40, :6] = codes
    words = packed[:, : 2 * 128].view(np.int8).reshape(2, 2, 32, 4)
    np.testing.assert_array_equal(words, padded.reshape(2, 32, 2, 4).transpose(0, 2, 1, 3))
    sums = packed[:, 2 * 128 :].copy().view(np.int32)
    np.testing.assert_array_equal(sums.reshape(-1), 128 * padded.astype(int).sum(axis=1))
    four = pack_i4(rng.integers(-8, 8, (33, 16), np.int8))
    words = compressed.pack(four).reshape(2, 2, 32, 4).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(words.reshape(64, 8)[:33], four.view(np.uint8))
    for dtype in HALVES:
        half = _x(rng, 5, 3).astype(dtype.numpy)
        words = compressed.pack(half).view(np.uint16).reshape(2, 32, 2).transpose(1, 0, 2).reshape(32, 4)
        np.testing.assert_array_equal(words[:5, :3], half.view(np.uint16))
        assert not words[5:].any() and not words[:, 3].any()
    np.testing.assert_array_equal(compressed.pack(np.asfortranarray(codes)), packed)
    scales = _x(rng, 3, 40)
    packed = compressed.pack_scales(scales)
    assert packed.shape == (2, 3, 32) and not packed[1, :, 8:].any()
    np.testing.assert_array_equal(np.concatenate([packed[0], packed[1, :, :8]], axis=1), scales)
    assert set(compressed.LAYOUTS) == {DType.I8, DType.I4, *HALVES}


def test_a_tied_table_is_read_from_the_packed_head(isa: str) -> None:
    rng = np.random.default_rng(1)
    codes, scales, _ = weight_of(rng, "i8", 50, 64, 0)
    assert scales is not None
    f32, table = DType.F32, ConstRef("c0", TensorType.of(codes))
    unit = ConstRef("c1", TensorType.of(scales))
    ids, rows, out = (
        Register(0, TensorType(DType.I64, (3,))),
        Register(1, TensorType(f32, (3, 64))),
        Register(2, TensorType(f32, (3, 50))),
    )
    body = [
        Instr("embedding_q", (table, ids, unit), (rows,), {}),
        Instr("linear_q", (rows, table, unit, None, None), (out,), {}),
    ]
    arrays = {r: np.zeros(r.type.shape, r.type.dtype.numpy) for r in (ids, rows, out)}
    arrays[ids][:] = [4, 49, 0]
    read: list[str] = []

    def memory(operand: Any) -> Any:
        if isinstance(operand, ConstRef):
            read.append(operand.name)
            return codes if operand.name == "c0" else scales
        return None if operand is None else arrays[operand]

    kept: dict[str, np.ndarray] = {}
    for step in native.steps(body, memory, pytest.fail, team(1), kept):  # type: ignore[arg-type]
        step()
    weight = codes * scales.T
    np.testing.assert_allclose(arrays[rows], weight[[4, 49, 0]], rtol=1e-6)
    np.testing.assert_allclose(arrays[out], weight[[4, 49, 0]] @ weight.T, rtol=1e-4, atol=1e-4)
    assert read.count("c0") == 1, "the table is read once, to pack it"


def test_i4_codes_survive_packing() -> None:
    codes = np.arange(-8, 8, dtype=np.int8).reshape(1, 16)
    np.testing.assert_array_equal(unpack_i4(pack_i4(codes)), codes)


def test_gelu_of_rounded_activations(isa: str) -> None:
    """Every column has a sum of its own: all values that GELU bends, and far beyond."""
    wanted = np.concatenate([np.linspace(-9, 9, 20000), [-1e4, 1e4, 0, np.inf, np.nan]]).astype(np.float32)
    codes = np.full((len(wanted), 1), 127, np.int8)
    operands = [np.ones((20, 1), np.float32), codes, wanted[None] / np.float32(127), None, None]
    attrs = {"dynamic": True, "act": "gelu"}
    got = run(operands, attrs, np.empty((20, len(wanted)), np.float32), packed=True, threads=1)
    (want,) = get("gelu").evaluate([wanted.astype(np.float64)], {})
    np.testing.assert_array_equal(np.isfinite(got[3]), np.isfinite(want))
    finite = np.isfinite(want)
    near = np.abs(got[3][finite] - want[finite]) <= 3e-6 + 5e-7 * np.abs(want[finite])
    assert near.all(), wanted[finite][~near]
