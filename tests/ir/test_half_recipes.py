"""Weights whose numbers 16 bits hold: which they are, and which movements of them are kept so."""

from __future__ import annotations

import numpy as np
import pytest

from forgec.ir.compress import compress, halves_to_keep
from forgec.ir.halves import half_of, holds_all, narrowed
from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.program import Leaf, Recipe, leaves
from forgec.ir.recipes import Evaluator, applied
from forgec.ir.types import HALVES, DType, TensorType
from forgec.ir.verifier import verify
from forgec.weights import WeightSpec

SEED = 20261201
F16, BF16 = DType.F16, DType.BF16

TEXT = """program @main(r0 "ids": i64[3]) -> (r4 "y": f32[3,9]) {
  const c0: f32[9,8] = "embed"
  const c1: f32[12,8] = concat("q": f32[4,8], "k": f32[8,8]) {axis=0}
  const c2: f32[8,12] = transpose("out": f32[12,8]) {perm=[1, 0]}
  const c3: f32[12] = "bias"
  r1: f32[3,8] = embedding c0, r0
  r2: f32[3,12] = linear r1, c1, c3
  r3: f32[3,8] = linear r2, c2
  r4: f32[3,9] = linear r3, c0
  return r4
}
"""


def every(dtype: DType) -> np.ndarray:
    """All 65,536 numbers of a type, as f32."""
    with np.errstate(invalid="ignore"):
        return np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy).astype(np.float32)


def quiet(x: np.ndarray) -> np.ndarray:
    """Without the NaN whose bits conversions change."""
    return x[~np.isnan(x)]


def leaf(name: str, *shape: int, dtype: DType = DType.F32) -> Leaf:
    return Leaf(name, TensorType(dtype, shape))


def test_all_numbers_of_a_type_are_held() -> None:
    assert half_of(quiet(every(BF16))) is BF16
    assert half_of(quiet(every(F16))) is F16
    assert half_of(np.zeros((3, 0), np.float32)) is None
    assert half_of(np.float32([0.0, -0.0, np.inf, 1.5]).reshape(2, 2)) is BF16, (
        "before f16, which has them too"
    )
    assert half_of(np.ones((4, 4), np.float32).T[::2]) is BF16


@pytest.mark.parametrize("dtype", HALVES)
def test_one_number_that_is_not_held_is_enough(dtype: DType) -> None:
    held = quiet(every(dtype))
    rest = np.tile(held, 9)  # several parts that are looked at one by one
    for place in (0, len(rest) // 2, len(rest) - 1):
        changed = rest.copy()
        changed[place] = np.float32(1 + 2**-13)
        assert half_of(changed) is None


def test_every_number_next_to_one_that_is_held() -> None:
    """One bit of f32 up or down from each number of 16 bits; f16 has denormal numbers, and none beyond 65504."""
    for dtype in HALVES:
        numbers = quiet(every(dtype))
        numbers = numbers[np.isfinite(numbers)]
        for x in (*np.nextafter(numbers[::41], np.float32(np.inf)), np.float32(65536), np.float32(2**-25)):
            with np.errstate(over="ignore"):
                fits = [h for h in (BF16, F16) if float(x.astype(h.numpy)) == float(x)]
            assert half_of(np.array([x])) is (fits[0] if fits else None), x


def test_random_bits() -> None:
    rng = np.random.default_rng(SEED)
    print("seed", SEED)
    for keep in (0xFFFFFFFF, 0xFFFFE000, 0xFFFF0000, 0x47FFE000, 0x3FFFE000):
        bits = rng.integers(0, 1 << 32, 3000, np.uint32) & np.uint32(keep)
        numbers = quiet(bits.view(np.float32))
        for x in numbers:
            with np.errstate(over="ignore"):
                fits = [h for h in (BF16, F16) if float(x.astype(h.numpy)) == float(x)]
            assert half_of(x[None]) is (fits[0] if fits else None), float(x).hex()


@pytest.mark.parametrize("dtype", HALVES)
def test_narrowing_changes_no_bit(dtype: DType) -> None:
    numbers = quiet(every(dtype))[: 1 << 15].reshape(-1, 2)
    for array in (numbers, np.asfortranarray(numbers), numbers[::2, :1]):
        recipe = narrowed(leaf("w", *array.shape), lambda _: dtype)
        assert recipe is not None and recipe.type.dtype is dtype and holds_all(recipe)
        found = Evaluator(lambda _, array=array: array)(recipe)
        np.testing.assert_array_equal(found.astype(np.float32).view(np.uint32), array.copy().view(np.uint32))


MOVED: dict[str, Recipe] = {
    "itself": leaf("w", 8, 8),
    "transposed": applied("transpose", [leaf("w", 8, 8)], perm=(1, 0)),
    "a part": applied("slice", [leaf("w", 8, 8)], axis=0, start=2, stop=6, step=1),
    "side by side": applied("concat", [leaf("w", 8, 8), leaf("v", 3, 8)], axis=0),
    "both": applied(
        "concat", [applied("transpose", [leaf("w", 8, 8)], perm=(1, 0)), leaf("v", 3, 8)], axis=0
    ),
    "widened": applied("cast", [leaf("h", 8, 8, dtype=F16)], dtype="f32"),
    "widened, moved": applied(
        "transpose", [applied("cast", [leaf("h", 8, 8, dtype=F16)], dtype="f32")], perm=(1, 0)
    ),
}
COMPUTED: dict[str, Recipe] = {
    "scaled": applied("mul", [leaf("w", 8, 8), leaf("v", 8, 8)]),
    "a scaled part": applied("concat", [leaf("w", 8, 8), applied("neg", [leaf("v", 8, 8)])], axis=0),
    "of two types": applied("concat", [leaf("w", 8, 8), leaf("b", 8, 8)], axis=0),
    "of 32 bits": applied("concat", [leaf("w", 8, 8), leaf("wide", 8, 8)], axis=0),
    "of 64 bits": leaf("w", 8, 8, dtype=DType.F64),
}
TYPES = {"w": F16, "v": F16, "b": BF16, "wide": None}


@pytest.mark.parametrize("form", MOVED)
def test_movements_are_kept(form: str) -> None:
    found = narrowed(MOVED[form], TYPES.__getitem__)
    assert found is not None and found.type.dtype is F16 and holds_all(found)
    assert found.type.shape == MOVED[form].type.shape
    rng = np.random.default_rng(SEED)
    tensors = {
        x.name: rng.standard_normal(x.type.shape).astype(np.float16).astype(x.type.dtype.numpy)
        for x in leaves(MOVED[form])
    }
    wanted = Evaluator(tensors.__getitem__)(MOVED[form])
    np.testing.assert_array_equal(Evaluator(tensors.__getitem__)(found).astype(np.float32), wanted)


@pytest.mark.parametrize("form", COMPUTED)
def test_what_is_computed_is_not(form: str) -> None:
    assert narrowed(COMPUTED[form], TYPES.__getitem__) is None


def test_a_rounded_weight_does_not_hold_all() -> None:
    assert not holds_all(applied("cast", [leaf("w", 8, 8)], dtype="bf16"))
    assert not holds_all(applied("transpose", [applied("cast", [leaf("w", 8, 8)], dtype="f16")], perm=(1, 0)))


def halves(spec: str = "auto", *, off_host: bool = False, **types: DType | None) -> dict[str, Recipe]:
    kinds = {"embed": BF16, "q": F16, "k": F16, "out": F16, "bias": F16, **types}
    return halves_to_keep(parse(TEXT), WeightSpec.parse(spec), kinds.__getitem__, off_host=off_host)


def test_which_weights_of_a_program() -> None:
    assert {name: r.type.dtype for name, r in halves().items()} == {"c0": BF16, "c1": F16, "c2": F16}
    assert set(halves(k=None)) == {"c0", "c2"}
    assert set(halves(k=BF16)) == {"c0", "c2"}, "parts of two types stay wide"
    assert not halves("fp32") and not halves("int8")
    assert set(halves("auto,out=fp32")) == {"c0", "c1"}
    assert set(halves("fp16")) == {"c1", "c2"} and set(halves("bf16")) == {"c0"}, "others are rounded to them"
    assert not halves(off_host=True), "the device multiplies with the table too"


def test_the_program_means_what_it_meant() -> None:
    program, spec, rng = parse(TEXT), WeightSpec.parse("auto"), np.random.default_rng(SEED)
    tensors = {
        x.name: rng.standard_normal(x.type.shape).astype(np.float16).astype(np.float32)
        for constant in program.constants.values()
        for x in leaves(constant.recipe)
    }
    found = compress(program, spec, halves=halves(embed=F16))
    verify(found)
    assert [i.op for i in found.main.body] == ["embedding_q", "linear_q", "linear_q", "linear_q"]
    assert found.main.body[0].operands[0] == found.main.body[3].operands[1], "one table for both"
    ids = np.array([8, 0, 3])
    np.testing.assert_allclose(
        Interpreter(found, tensors.__getitem__).run([ids])[0],
        Interpreter(program, tensors.__getitem__).run([ids])[0],
        rtol=1e-6,
        atol=1e-6,
    )
