"""Compiled code in the vendor's emulator against the reference interpreter, at f16's tolerance.

Some forms are known to compile without an error and then give wrong numbers: RMS norms of rank 4, f16 matrix
products of rank 5, look-ups by computed indices on an axis behind others, averages over padding, padding of what
was cut off there. Those tests fail if emission stops avoiding them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from forgec.backends import get as backend
from forgec.backends.base import Yes
from forgec.backends.qnn.backend import by_rule
from qnn_emulator import assert_close, compiled, emulated
from qnn_programs import Case, single, together
from random_pools import random_pool

from forgec.ir.op import OPS, IRTypeError, Sample
from forgec.ir.parser import parse
from forgec.ir.types import DType

SEED = 20261123


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def test_rms_norm_of_rank_4_is_right(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    cases = []
    for heads, rows, size in ((4, 16, 32), (8, 7, 64), (2, 64, 128), (16, 1, 32)):
        weight = (1 + 0.1 * _normal(rng, size)).astype(np.float32)
        sample = Sample((_normal(rng, 1, heads, rows, size), weight), {})
        cases.append(single("rms_norm", sample, frozenset({1})))
    case = together(cases)
    assert_close(case, emulated(case, compiled(case, tmp_path)))


def test_batched_rms_norm_is_right(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    sample = Sample((_normal(rng, 2, 16, 64), _normal(rng, 64)), {})
    case = single("rms_norm", sample, frozenset({1}))
    assert_close(case, emulated(case, compiled(case, tmp_path)))


def test_matrix_product_of_rank_5_is_right(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    case = single("matmul", Sample((_normal(rng, 1, 2, 3, 16, 32), _normal(rng, 1, 2, 3, 32, 16)), {}))
    assert_close(case, emulated(case, compiled(case, tmp_path)))


def test_look_up_on_a_middle_axis_is_right(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    cases = [
        single("gather", Sample((_normal(rng, *shape), rng.integers(0, shape[axis], 6)), {"axis": axis}))
        for shape, axis in (((3, 5, 4), 1), ((2, 16, 32), 1), ((2, 3, 5, 4), 2))
    ]
    case = together(cases)
    assert_close(case, emulated(case, compiled(case, tmp_path)))


CUT = """program @main(r0 "x": {dtype}[2,8,16]) -> (r3 "y": {dtype}[2,8,16]) {{
  const c0: {dtype}[2,2,16] = "c"
  r1: {dtype}[2,6,16] = slice r0 {{axis=1, start=2, stop=8}}
  r2: {dtype}[2,6,16] = {between}
  r3: {dtype}[2,8,16] = concat c0, r2 {{axis=1}}
  return r3
}}
"""
CUT_AND_PADDED = """program @main(r0 "x": f32[2,8,16]) -> (r3 "y": f32[2,8,16], r6 "z": f32[2,8,16]) {{
  r1: f32[2,8,14] = slice r0 {{axis=2, start=0, stop=14}}
  r2: f32[2,8,14] = mul r1, 2.0
  r3: f32[2,8,16] = pad r2 {{after=[0,0,2], before=[0,0,0], value={value}}}
  r4: f32[2,7,14] = slice r1 {{axis=1, start=1, stop=8}}
  r5: f32[2,7,14] = mul r4, 2.0
  r6: f32[2,8,16] = pad r5 {{after=[0,0,2], before=[0,1,0], value={value}}}
  return r3, r6
}}
"""


@pytest.mark.parametrize(
    ("dtype", "value", "between"),
    [("f32", 0, "mul r1, 2.0"), ("f32", 7, "copy r1"), ("i32", 3, "mul r1, 2"), ("bool", 1, "not r1")],
)
def test_numbers_where_something_was_cut_off_are_right(
    dtype: str, value: int, between: str, tmp_path: Path
) -> None:
    rng, kind = np.random.default_rng(SEED), DType(dtype).numpy
    x = (4 * _normal(rng, 2, 8, 16)).astype(kind)
    program = parse(CUT.format(dtype=dtype, between=between))
    case = Case(program, [x], {"c": np.full((2, 2, 16), value, kind)})
    assert_close(case, emulated(case, compiled(case, tmp_path)))


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_padding_of_what_was_cut_off_is_right(value: float, tmp_path: Path) -> None:
    x = _normal(np.random.default_rng(SEED), 2, 8, 16)
    case = Case(parse(CUT_AND_PADDED.format(value=value)), [x], {})
    assert_close(case, emulated(case, compiled(case, tmp_path)))


def test_a_parameter_of_rank_6_is_read_as_rows(tmp_path: Path) -> None:
    """As windows of an image are that the host put side by side."""
    program = parse("""program @main(r0 "x": f32[1,2,2,3,2,8]) -> (r2 "y": f32[1,4,6,8]) {
  r1: f32[1,4,6,8] = reshape r0 {shape=[1,4,6,8]}
  r2: f32[1,4,6,8] = mul r1, 2.0
  return r2
}
""")
    case = Case(program, [_normal(np.random.default_rng(SEED), 1, 2, 2, 3, 2, 8)], {})
    assert_close(case, emulated(case, compiled(case, tmp_path)))


def test_pooling_without_what_is_refused_is_right(tmp_path: Path) -> None:
    """Averages over padding would be wrong in a third of such draws."""
    cases, refused = [], 0
    for seed in range(250):
        x, attrs = random_pool(np.random.default_rng(seed))
        try:
            case = single("pool", Sample((x,), attrs))
        except IRTypeError:
            continue
        if by_rule(case.instr) is not None or max(attrs["dilation"]) > 1:
            refused += 1
        else:
            cases.append(case)
    assert min(len(cases), refused) > 10
    case = together(cases)
    assert_close(case, emulated(case, compiled(case, tmp_path)))


def _supported() -> list[Case]:
    """Every sample that the backend accepts, with computed operands and with constant ones."""
    qnn = backend("hexagon-v73")
    cases = []
    for name, op in OPS.items():
        for sample in op.samples(np.random.default_rng(SEED)) if op.samples else ():
            arrays = [i for i, x in enumerate(sample.operands) if isinstance(x, np.ndarray)]
            if not all(sample.operands[i].size for i in arrays):
                continue
            if sample.attrs.get("dynamic"):  # the reference quantises activations, HTP does not
                continue
            choices = {frozenset(), frozenset(arrays[1:]), frozenset(arrays[:1] + arrays[2:])}
            for constant in choices - {frozenset(range(len(arrays)))}:
                case = single(name, sample, constant)
                if isinstance(qnn.supports(case.program.main.body[0]), Yes):
                    cases.append(case)
    return cases


@pytest.mark.slow
def test_every_supported_op_is_right(tmp_path: Path) -> None:
    case = together(_supported())
    assert_close(case, emulated(case, compiled(case, tmp_path)))
