"""Codes that a model brings: their scales and offsets follow a weight's movements, and codes come back as they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forgec.ir.compress import codes_to_keep, compress
from forgec.ir.interpreter import Interpreter
from forgec.ir.ops.compressed import by_group
from forgec.ir.parser import parse
from forgec.ir.program import Constant, Leaf, Program, Recipe
from forgec.ir.recipes import applied, evaluate
from forgec.ir.stored import Stored, StoredCodes, Unkept
from forgec.ir.types import DType, TensorType, unpack_i4
from forgec.ir.verifier import verify
from forgec.weights import WeightSpec

SEED = 20
A, B, F = (Leaf(name, TensorType(DType.F32, (16, 24))) for name in "abf")
C = Leaf("c", TensorType(DType.F32, (24, 16)))
ODD = Leaf("o", TensorType(DType.F32, (16, 9)))
EACH, WHOLE, COLUMNS, GROUPS = (1, 24), (16, 24), (16, 1), (1, 8)
"""Blocks of a matrix [16, 24]: a scale per row, one for all, one per column, one for 8 columns of a row."""


def turned(x: Recipe) -> Recipe:
    return applied("transpose", [x], perm=(1, 0))


def rows(x: Recipe, start: int, stop: int, step: int = 1) -> Recipe:
    return applied("slice", [x], axis=0, start=start, stop=stop, step=step)


def columns(x: Recipe, start: int, stop: int) -> Recipe:
    return applied("slice", [x], axis=1, start=start, stop=stop)


def joined(*parts: Recipe, axis: int = 0) -> Recipe:
    return applied("concat", parts, axis=axis)


CASES = {
    "a scale per row": (A, {"a": EACH}, 0),
    "one scale": (A, {"a": WHOLE}, 0),
    "groups": (A, {"a": GROUPS}, 8),
    "a short last group": (A, {"a": (1, 16)}, 16),
    "turned": (turned(C), {"c": (24, 1)}, 0),
    "turned groups": (turned(C), {"c": (8, 1)}, 8),
    "turned twice": (turned(turned(A)), {"a": GROUPS}, 8),
    "some rows": (rows(A, 3, 11), {"a": EACH}, 0),
    "some rows of one scale": (rows(turned(C), 2, 9), {"c": (24, 16)}, 0),
    "some groups": (columns(A, 8, 24), {"a": GROUPS}, 8),
    "side by side": (joined(A, turned(C)), {"a": EACH, "c": (24, 1)}, 0),
    "side by side, one scale beside many": (joined(A, B, turned(C)), {"a": WHOLE, "b": EACH, "c": (24, 16)}, 0),
    "side by side, groups": (joined(A, B), {"a": GROUPS, "b": GROUPS}, 8),
    "rows of what is side by side": (rows(joined(A, B), 10, 20), {"a": WHOLE, "b": EACH}, 0),
}  # fmt: skip
"""A weight, the blocks of its sources, and the group that its codes are kept in."""

NEAR = {
    "a scale per column": (A, {"a": COLUMNS}, "scales for"),
    "scales for rows together": (A, {"a": (4, 24)}, "scales for"),
    "groups of four": (A, {"a": (1, 4)}, "scales for"),
    "part of a group": (columns(A, 4, 20), {"a": GROUPS}, "slice"),
    "other groups beside": (joined(A, B), {"a": GROUPS, "b": EACH}, "concat"),
    "along the depth": (joined(A, B, axis=1), {"a": WHOLE, "b": WHOLE}, "scales for"),
    "every second row": (rows(A, 0, 16, 2), {"a": EACH}, "slice"),
    "beside floats": (joined(A, F), {"a": EACH}, "beside f"),
    "scaled": (applied("mul", [A, B]), {"a": EACH, "b": EACH}, "mul"),
}


def program_of(weight: Recipe, operands: str = "", attrs: str = "") -> Program:
    """``y = linear x, weight``, which may have a bias b [outs] and a residual r [2, outs]."""
    outs, depth = weight.type.shape
    program = parse(
        f"""program @main(r0 "x": f32[2,{depth}], r1 "b": f32[{outs}], r2 "r": f32[2,{outs}]) -> (r3 "y": f32[2,{outs}]) {{
  const c0: f32[{outs},{depth}] = "w"
  r3: f32[2,{outs}] = linear r0, c0{operands}{attrs}
  return r3
}}
"""
    )
    return replace(program, constants={"c0": Constant("c0", weight.type, weight)})


def drawn(blocks: dict[str, tuple[int, int]], bits: int = 8, rounds: bool = False, offset: str = ""):
    """Codes of source tensors, as floats, and what a program is told of them; those named in ``offset`` have
    offsets."""
    rng = np.random.default_rng(SEED)
    codes, stored = {}, {}
    for name, (high, wide) in blocks.items():
        shape = next(leaf.type.shape for leaf in (A, B, C, ODD) if leaf.name == name)
        half = 2 ** (bits - 1)
        codes[name] = rng.integers(-half, half, shape).astype(np.float32)
        scales = rng.uniform(0.01, 0.1, (-(-shape[0] // high), -(-shape[1] // wide))).astype(np.float32)
        offsets = scales * rng.integers(1 - half, half, scales.shape) if name in offset else None
        stored[name] = StoredCodes(
            scales,
            (high, wide),
            bits,
            rounds,
            codes[name].size,
            None if offsets is None else offsets.astype(np.float32),
        )
    return codes, Stored(stored, sum(c.nbytes for c in stored.values()))


def weights_of(codes, stored):
    """The source tensors."""
    found = {"f": np.ones(F.type.shape, np.float32)}
    for name, array in codes.items():
        parts = []
        for part in (stored.codes[name].scales, stored.codes[name].offsets):
            for axis, block in enumerate(stored.codes[name].blocks if part is not None else ()):
                part = np.repeat(part, block, axis).take(range(array.shape[axis]), axis)
            parts.append(part)
        scales, offsets = parts
        found[name] = array * scales if offsets is None else array * scales + offsets
    return found


def kept_program(weight, stored, weights="auto", operands="", attrs=""):
    program, spec = program_of(weight, operands, attrs), WeightSpec.parse(weights)
    kept, reasons = codes_to_keep(program, spec, stored)
    made = compress(program, spec, kept=kept)
    verify(made)
    return made, reasons


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("case", CASES)
def test_codes_are_kept_to_the_bit(case: str, bits: int) -> None:
    weight, blocks, group = CASES[case]
    codes, stored = drawn(blocks, bits)
    program, reasons = kept_program(weight, stored)
    assert reasons == [] and stored.floats(program) == []
    (instr,) = program.main.body
    assert instr.op == "linear_q" and instr.attrs.get("group", 0) == group and not instr.attrs.get("dynamic")
    tensors = {**weights_of(codes, stored), **stored.tensors()}
    made = [evaluate(program.constants[x.name].recipe, tensors.__getitem__) for x in instr.operands[1:3]]
    found = unpack_i4(made[0]) if bits == 4 else made[0]
    np.testing.assert_array_equal(found, evaluate(weight, codes.__getitem__), f"seed {SEED}")
    floats = found * by_group(made[1], found.shape[1], group)
    np.testing.assert_array_equal(floats, evaluate(weight, tensors.__getitem__), f"seed {SEED}")


def interpreted(program: Program, tensors: dict[str, np.ndarray], *inputs: np.ndarray) -> list[np.ndarray]:
    return Interpreter(program, tensors.__getitem__).run(list(inputs))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_offsets_are_added_and_codes_are_kept_to_the_bit(case: str, some: bool, bits: int) -> None:
    """Where several sources make a weight up, of all of them or of the first only."""
    weight, blocks, group = CASES[case]
    codes, stored = drawn(blocks, bits, offset=next(iter(blocks)) if some else "abc")
    program, reasons = kept_program(weight, stored)
    assert reasons == [] and stored.floats(program) == []
    *before, instr = program.main.body
    small = before[-1]
    assert (small.op, instr.op) == ("linear", "linear_q") and instr.operands[4] == small.results[0]
    tensors = {**weights_of(codes, stored), **stored.tensors()}
    made = evaluate(program.constants[instr.operands[1].name].recipe, tensors.__getitem__)
    found = unpack_i4(made) if bits == 4 else made
    np.testing.assert_array_equal(found, evaluate(weight, codes.__getitem__), f"seed {SEED}")
    wide = evaluate(weight, tensors.__getitem__).astype(np.float64)
    outs, depth = wide.shape
    assert small.operands[1].type.shape == (outs, -(-depth // group) if group else 1)
    rng = np.random.default_rng(SEED)
    x, bias, residual = (rng.standard_normal(s).astype(np.float32) for s in ((2, depth), (outs,), (2, outs)))
    (y,) = interpreted(program, tensors, x, bias, residual)
    np.testing.assert_allclose(y, x @ wide.T, rtol=1e-4, atol=2e-4 * np.abs(wide).max())


@pytest.mark.parametrize("group", [EACH, (1, 16)])
@pytest.mark.parametrize("operands", ["", ", r1", ", _, r2", ", r1, r2"])
@pytest.mark.parametrize("act", ["", "gelu", "relu"])
def test_an_activation_comes_after_the_offsets(act: str, operands: str, group: tuple[int, int]) -> None:
    codes, stored = drawn({"a": group}, offset="a")
    attrs = f' {{act="{act}"}}' if act else ""
    program, _ = kept_program(A, stored, operands=operands, attrs=attrs)
    assert [i.op for i in program.main.body if i.op in ("add", act)] == [act] * bool(act) + ["add"] * (
        bool(act) and "r2" in operands
    )
    tensors = {**weights_of(codes, stored), **stored.tensors()}
    rng = np.random.default_rng(SEED)
    inputs = [rng.standard_normal(s).astype(np.float32) for s in ((2, 24), (16,), (2, 16))]
    (y,) = interpreted(program, tensors, *inputs)
    (plain,) = interpreted(program_of(A, operands, attrs), tensors, *inputs)
    np.testing.assert_allclose(y, plain, rtol=1e-4, atol=2e-4)


def test_products_of_one_input_share_its_sums() -> None:
    text = """program @main(r0 "x": f32[2,24], r1 "z": f32[2,24]) -> (r2 "y": f32[2,16], r3 "u": f32[2,16], r4 "v": f32[2,16]) {
  const c0: f32[16,24] = "a"
  const c1: f32[16,24] = "b"
  r2: f32[2,16] = linear r0, c0
  r3: f32[2,16] = linear r0, c1
  r4: f32[2,16] = linear r1, c0
  return r2, r3, r4
}
"""
    program, spec = parse(text), WeightSpec.parse("auto")
    for blocks, sums in ((dict.fromkeys("ab", GROUPS), 2), ({"a": GROUPS, "b": EACH}, 3)):
        _, stored = drawn(blocks, offset="ab")
        made = compress(program, spec, kept=codes_to_keep(program, spec, stored)[0])
        verify(made)
        assert [i.op for i in made.main.body].count("sum") == sums


@pytest.mark.parametrize("block", [8, 16])
def test_sums_of_views_are_of_views(block: int) -> None:
    """Groups of columns of a matrix that is turned lie apart in memory, and need no copy."""
    text = """program @main(r0 "x": f32[24,5]) -> (r3 "y": f32[3,16]) {
  const c0: f32[16,24] = "a"
  r1: f32[5,24] = transpose r0 {perm=[1,0]}
  r2: f32[3,24] = slice r1 {stop=5, step=2}
  r3: f32[3,16] = linear r2, c0
  return r3
}
"""
    codes, stored = drawn({"a": (1, block)}, offset="a")
    program, spec = parse(text), WeightSpec.parse("auto")
    made = compress(program, spec, kept=codes_to_keep(program, spec, stored)[0])
    verify(made)
    assert "copy" not in [i.op for i in made.main.body]
    tensors = {**weights_of(codes, stored), **stored.tensors()}
    x = np.random.default_rng(SEED).standard_normal((24, 5)).astype(np.float32)
    ((ours,), (plain,)) = (interpreted(p, tensors, x) for p in (made, program))
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())


def test_a_block_with_offsets_and_one_without_are_two_functions() -> None:
    text = """program @main(r0 "x": f32[2,24]) -> (r3 "y": f32[2,24]) {
  const c0: f32[24,24] = "p"
  const c1: f32[24,24] = "q"
  r1: f32[2,24] = call @block r0, c0
  r2: f32[2,24] = call @block r1, c1
  r3: f32[2,24] = call @block r2, c0
  return r3
}

function @block(r0: f32[2,24], k0: f32[24,24]) -> (f32[2,24]) {
  r1: f32[2,24] = linear r0, k0 {act="relu"}
  return r1
}
"""
    rng = np.random.default_rng(SEED)
    scales = np.full((24, 1), 0.01, np.float32)
    codes = {name: rng.integers(-128, 128, (24, 24)).astype(np.float32) for name in "pq"}
    own = {"p": 50 * scales, "q": None}
    stored = Stored({n: StoredCodes(scales, (1, 24), 8, False, 1, own[n]) for n in "pq"}, 2)
    program, spec = parse(text), WeightSpec.parse("auto")
    made = compress(program, spec, kept=codes_to_keep(program, spec, stored)[0])
    verify(made)
    assert sorted(made.functions) == ["block", "block.1", "main"]
    tensors = {"p": codes["p"] * scales + own["p"], "q": codes["q"] * scales, **stored.tensors()}
    x = rng.standard_normal((2, 24)).astype(np.float32)
    ((ours,), (plain,)) = (interpreted(p, tensors, x) for p in (made, program))
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())


@pytest.mark.parametrize("case", NEAR)
def test_what_is_no_movement_of_codes_stays_floats(case: str) -> None:
    weight, blocks, said = NEAR[case]
    _, stored = drawn(blocks)
    program, (reason,) = kept_program(weight, stored)
    assert said in reason
    assert program.main.body[0].op == "linear" and len(stored.floats(program)) == len(blocks)


def test_bits_that_differ_stay_floats() -> None:
    _, eight = drawn({"a": EACH})
    _, four = drawn({"b": EACH}, 4)
    program, reasons = kept_program(joined(A, B), Stored({**eight.codes, **four.codes}, 1))
    assert reasons and program.main.body[0].op == "linear"
    _, reasons = kept_program(joined(A, B), Stored({**eight.codes, "b": Unkept("strange", 9)}, 1))
    assert reasons == ["strange"]


def test_other_formats_are_made_of_the_floats() -> None:
    _, stored = drawn({"a": EACH})
    for weights, op in (
        ("fp32", "linear"),
        ("int8", "linear_q"),
        ("auto,a=int4:32", "linear_q"),
        ("a=fp32", "linear"),
    ):
        program, (reason,) = kept_program(A, stored, weights)
        assert program.main.body[0].op == op and "where auto would keep" in reason
        assert stored.floats(program) == list(stored.codes.values())
    assert kept_program(A, stored, "int8,a=auto") == kept_program(A, stored)


@pytest.mark.parametrize(
    ("bits", "blocks", "dynamic"), [(8, EACH, True), (4, EACH, True), (4, GROUPS, True), (8, GROUPS, False)]
)
def test_products_round_where_the_model_does_and_there_is_a_form(bits, blocks, dynamic) -> None:
    _, stored = drawn({"a": blocks}, bits, rounds=True)
    program, _ = kept_program(A, stored)
    assert bool(program.main.body[0].attrs.get("dynamic")) == dynamic


def test_sums_are_of_what_is_multiplied() -> None:
    """Rows that are rounded for bytes are rounded for their sums, but not where a device is to take both."""
    program, spec = program_of(A), WeightSpec.parse("auto")
    for bits, blocks, off_host, ops in (
        (8, EACH, False, [("linear_q", True), ("linear", False), ("linear_q", True)]),
        (8, EACH, True, [("sum", False), ("linear", False), ("linear_q", False)]),
        (4, EACH, False, [("sum", False), ("linear", False), ("linear_q", True)]),
        (4, EACH, True, [("sum", False), ("linear", False), ("linear_q", True)]),
    ):
        codes, stored = drawn({"a": blocks}, bits, rounds=True, offset="a")
        made = compress(program, spec, kept=codes_to_keep(program, spec, stored, off_host=off_host)[0])
        verify(made)
        assert [(i.op, bool(i.attrs.get("dynamic"))) for i in made.main.body] == ops
        tensors = {**weights_of(codes, stored), **stored.tensors()}
        x = np.random.default_rng(SEED).standard_normal((2, 24)).astype(np.float32)
        (y,) = interpreted(made, tensors, x, np.zeros(16, np.float32), np.zeros((2, 16), np.float32))
        exact = x @ tensors["a"].T.astype(np.float64)
        assert np.linalg.norm(y - exact) < 0.03 * np.linalg.norm(exact), f"seed {SEED}"


def test_codes_of_four_bits_take_eight_where_i4_has_no_form() -> None:
    codes, stored = drawn({"o": (1, 9)}, 4)
    program, _ = kept_program(ODD, stored)
    instr = program.main.body[0]
    assert instr.operands[1].type == TensorType(DType.I8, (16, 9))
    tensors = {**weights_of(codes, stored), **stored.tensors()}
    made = evaluate(program.constants[instr.operands[1].name].recipe, tensors.__getitem__)
    np.testing.assert_array_equal(made, codes["o"])


TABLE = """program @main(r0 "ids": i64[3], r1 "x": f32[2,24]) -> (r2 "y": f32[3,24], r3 "z": f32[2,16]) {
  const c0: f32[16,24] = "a"
  r2: f32[3,24] = embedding c0, r0
  r3: f32[2,16] = linear r1, c0
  return r2, r3
}
"""


@pytest.mark.parametrize("block", [24, 8, 16])
def test_offsets_of_tables(block: int) -> None:
    """For whole rows, for groups, and for groups of which the last is shorter."""
    for bits in (8, 4):
        codes, stored = drawn({"a": (1, block)}, bits, offset="a")
        program, spec = parse(TABLE), WeightSpec.parse("auto")
        made = compress(program, spec, kept=codes_to_keep(program, spec, stored)[0])
        verify(made)
        tensors = {**weights_of(codes, stored), **stored.tensors()}
        inputs = [
            np.array([15, 0, 7]),
            np.random.default_rng(SEED).standard_normal((2, 24)).astype(np.float32),
        ]
        for ours, plain in zip(
            interpreted(made, tensors, *inputs), interpreted(program, tensors, *inputs), strict=True
        ):
            np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())


def test_a_table_and_a_product_share_their_codes() -> None:
    for bits in (8, 4):
        _, stored = drawn({"a": GROUPS}, bits)
        program, spec = parse(TABLE), WeightSpec.parse("auto")
        made = compress(program, spec, kept=codes_to_keep(program, spec, stored)[0])
        verify(made)
        table, product = made.main.body
        assert (table.op, product.op) == ("embedding_q", "linear_q")
        assert table.operands[0] == product.operands[1] and table.operands[2] == product.operands[2]
        assert table.operands[0].type.dtype is DType.I8, "tables are never i4"


def test_attention_rounds_only_beside_products_that_all_round() -> None:
    text = """program @main(r0 "x": f32[1,2,4,24]) -> (r3 "y": f32[1,2,4,16]) {
  const c0: f32[16,24] = "a"
  const c1: f32[16,24] = "b"
  r1: f32[1,2,4,16] = linear r0, c0
  r2: f32[1,2,4,16] = linear r0, c1
  r3: f32[1,2,4,16] = attention r1, r2, r2 {scale=0.25}
  return r3
}
"""
    program, spec = parse(text), WeightSpec.parse("auto")
    for names, rounds, expected in (("ab", True, True), ("a", True, False), ("ab", False, False)):
        _, stored = drawn(dict.fromkeys(names, EACH), rounds=rounds)
        made = compress(program, spec, kept=codes_to_keep(program, spec, stored)[0])
        assert bool(made.main.body[-1].attrs.get("bf16")) == expected
