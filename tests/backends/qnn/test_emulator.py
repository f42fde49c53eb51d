"""Compiled code in the vendor's emulator against the reference interpreter, at f16's tolerance.

Some forms are known to compile without an error and then give wrong numbers: RMS norms of rank 4, f16 matrix
products of rank 5, look-ups by computed indices on an axis behind others, averages over padding. Those tests fail if emission stops avoiding them.
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
