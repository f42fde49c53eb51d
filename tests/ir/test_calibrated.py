"""Codes fitted to the inputs of a weight: errors on these inputs, blocks, inputs that were never seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgec.errors import InputError
from forgec.ir.calibrate import Calibration, gram_leaf
from forgec.ir.compress import compress
from forgec.ir.inline import inline
from forgec.ir.op import IRTypeError, get
from forgec.ir.ops import calibrated
from forgec.ir.ops.calibrated import gram_type
from forgec.ir.ops.compressed import dequantise
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.program import leaves
from forgec.ir.types import DType, TensorType
from forgec.ir.verifier import verify
from forgec.weights import WeightSpec

F32 = np.dtype(np.float32)

TEXT = """program @main(r0 "ids": i64[3]) -> (r3 "y": f32[3,8]) {
  const c0: f32[9,64] = "table"
  const c1: f32[64,64] = "fc.0"
  const c2: f32[64,64] = transpose("fc.1": f32[64,64]) {perm=[1,0]}
  const c3: f32[8,64] = "head"
  r1: f32[3,64] = embedding c0, r0
  r2: f32[3,64] = call @block r1, c1
  r4: f32[3,64] = call @block r2, c2
  r3: f32[3,8] = linear r4, c3
  return r3
}

function @block(r0: f32[3,64], k0: f32[64,64]) -> (f32[3,64]) {
  r1: f32[3,64] = linear r0, k0, _, r0
  return r1
}
"""


def sources(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"table": (9, 64), "fc.0": (64, 64), "fc.1": (64, 64), "head": (8, 64)}
    return {name: rng.standard_normal(shape).astype(np.float32) / 8 for name, shape in shapes.items()}


def flatten(args: tuple, kwargs: dict) -> list[np.ndarray]:
    return [*args, *kwargs.values()]


def gram_of(x: np.ndarray, block: int) -> np.ndarray:
    """The sums of products by blocks."""
    depth = x.shape[1]
    gram = np.zeros((-(-depth // block), block, block), np.float32)
    for number, first in enumerate(range(0, depth, block)):
        part = x[:, first : first + block]
        gram[number, : part.shape[1], : part.shape[1]] = part.T @ part
    return gram


def error(weight: np.ndarray, codes: np.ndarray, scales: np.ndarray, group: int, x: np.ndarray) -> float:
    return float(np.square(x @ (dequantise(codes, scales, group, F32) - weight).T).sum())


@settings(max_examples=25, deadline=None)
@given(
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([0, 32, 64]),
    n=st.integers(16, 40),
    depth=st.integers(20, 90).map(lambda half: 2 * half),
    seed=st.integers(0, 2**32 - 1),
)
def test_fitted_codes_are_nearer_on_the_inputs(bits: int, group: int, n: int, depth: int, seed: int) -> None:
    """For enough rows: a row alone may be worse off, since each code is chosen before the next ones."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((depth, depth)) * rng.exponential(1, depth)
    x = (rng.standard_normal((4 * depth, depth)) @ mix).astype(np.float32)
    weight = rng.standard_normal((n, depth)).astype(np.float32)
    how = {"bits": bits, "group": group}
    gram = gram_of(x, depth)
    (plain,) = get("scales").evaluate((weight,), how)
    (scales,) = get("fitted_scales").evaluate((weight, gram), how)
    (nearest,) = get("quantise").evaluate((weight, plain), how)
    (codes,) = get("fitted_codes").evaluate((weight, scales, gram), how)
    assert TensorType.of(codes) == TensorType(DType.I4 if bits == 4 else DType.I8, weight.shape)
    assert error(weight, codes, scales, group, x) < error(weight, nearest, plain, group, x)


def test_blocks_are_rounded_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrated, "BLOCK", 16)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((100, 40)).astype(np.float32)
    weight = rng.standard_normal((5, 40)).astype(np.float32)
    gram = gram_of(x, 16)
    assert gram_type(40) == TensorType.of(gram)
    scales = np.full((1, 5), 0.3, np.float32)
    codes = get("fitted_codes").evaluate((weight, scales, gram), {})[0]
    for first in (0, 16, 32):
        part = slice(first, first + 16)
        alone = gram[first // 16][None, : 40 - first, : 40 - first]
        (own,) = get("fitted_codes").evaluate((weight[:, part], scales, alone), {})
        np.testing.assert_array_equal(codes[:, part], own)


def test_inputs_that_were_always_zero() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    nothing = np.zeros((1, 16, 16), np.float32)
    how = {"bits": 4, "group": 8}
    (scales,) = get("fitted_scales").evaluate((weight, nothing), how)
    np.testing.assert_array_equal(scales, get("scales").evaluate((weight,), how)[0])
    np.testing.assert_array_equal(
        get("fitted_codes").evaluate((weight, scales, nothing), how)[0],
        get("quantise").evaluate((weight, scales), how)[0],
    )
    weight[:] = 0
    assert (
        not get("fitted_codes")
        .evaluate((weight, np.zeros((2, 3), np.float32), nothing), how)[0]
        .view("u1")
        .any()
    )


def test_a_gram_matrix_of_another_size_is_refused() -> None:
    w, g = TensorType(DType.F32, (4, 8)), TensorType(DType.F32, (1, 6, 6))
    with pytest.raises(IRTypeError, match=r"must be f32\[1,8,8\], not f32\[1,6,6\]"):
        get("fitted_scales").result_types([w, g], {})


def test_a_run_is_seen_by_every_product() -> None:
    program, tensors = parse(TEXT), sources()
    ids = [np.array([1, 2, 8]), np.array([0, 0, 5])]
    known = Calibration([(ids[0],), {"ids": ids[1]}])
    known.observe(program, tensors.__getitem__, flatten)
    flat = inline(program)
    x = tensors["table"][np.concatenate(ids)]
    for name, weight in (("c1", tensors["fc.0"]), ("c2", tensors["fc.1"].T), ("c3", None)):
        leaf = gram_leaf(flat.constants[name].key, 64)
        np.testing.assert_allclose(known.tensors[leaf.name], gram_of(x, 64), rtol=1e-4, atol=1e-4)
        if weight is not None:
            x = x + x @ weight.T
    assert len(known.tensors) == 3


@pytest.mark.parametrize("four", ["int4", "w4a8"])
def test_weights_of_four_bits_take_the_fitted_codes(four: str) -> None:
    program, tensors = parse(TEXT), sources()
    known = Calibration([(np.array([1, 2, 8]),)])
    known.observe(program, tensors.__getitem__, flatten)
    made = compress(program, WeightSpec.parse(f"{four}:32,head=int8"), known)
    verify(made)
    assert parse(to_text(made)) == made
    used = {leaf.name for c in made.constants.values() for leaf in leaves(c.recipe)}
    assert {name for name in used if name.startswith("calibration.")} == {
        gram_leaf(program.constants[name].key, 64).name for name in ("c1", "c2")
    }
    assert compress(program, WeightSpec.parse("int8"), known) == compress(program, WeightSpec.parse("int8"))


def test_inputs_that_are_not_finite_are_left_out() -> None:
    program, tensors = parse(TEXT), sources()
    tensors["table"][3] = np.nan
    known = Calibration([(np.array([1, 3, 3]),)])
    known.observe(program, tensors.__getitem__, flatten)
    assert all(np.isfinite(gram).all() for gram in known.tensors.values())
    with pytest.raises(InputError):
        Calibration([(np.array([1, 3, 99]),)]).observe(program, tensors.__getitem__, flatten)
