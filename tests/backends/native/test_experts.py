"""Rows times the weights of their experts, plain and compressed: sizes, orders, bad ids, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from forgec.backends.cpu import native
from forgec.backends.cpu.native.binding import NativeStep
from native_runs import instruction, packed_operands_of, strided, team

from forgec.errors import InputError
from forgec.ir.op import get
from forgec.ir.ops.compressed import dequantise
from forgec.ir.types import HALVES, pack_i4

F64 = np.dtype(np.float64)
KINDS = ["f32", "i8", "i8 groups", "i4", *(h.value for h in HALVES)]


def weight_of(
    rng: np.random.Generator, kind: str, n: int, depth: int
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """A weight [n, depth] of a kind, its scales, and the group that shares one."""
    if kind == "f32" or kind in (h.value for h in HALVES):
        weight = rng.standard_normal((n, depth)).astype(np.float32)
        half = next((h for h in HALVES if h.value == kind), None)
        return (weight if half is None else weight.astype(half.numpy)), None, 0
    group = 0 if kind == "i8" else 32
    scales = (rng.random((-(-depth // group) if group else 1, n)) / 99 + 1e-3).astype(np.float32)
    if kind == "i4":
        return pack_i4(rng.integers(-8, 8, (n, depth), np.int8)), scales, group
    return rng.integers(-128, 128, (n, depth), np.int8), scales, group


def check(
    rng: np.random.Generator, kind: str, rows: int, experts: int, outs: int, depth: int, threads: int
) -> None:
    weight, scales, group = weight_of(rng, kind, experts * outs, depth)
    x = strided(rng, rng.standard_normal((rows, depth)).astype(np.float32))
    ids = strided(rng, rng.integers(-experts, experts, rows, np.int32 if rng.random() < 0.5 else np.int64))
    op = "expert_linear" if kind == "f32" else "expert_linear_q"
    operands = [x, weight, ids] if kind == "f32" else [x, weight, ids, scales]
    attrs = {"experts": experts} if kind == "f32" else {"experts": experts, "group": group}
    wide = weight if kind == "f32" else dequantise(weight, scales, group, F64)
    wanted = get("expert_linear").evaluate([x.astype(F64), wide.astype(F64), ids], {"experts": experts})[0]
    for packed in (False, True) if kind != "f32" else (False,):
        instr = instruction(op, operands, attrs, range(1, len(operands)) if packed else ())
        out, step = np.full((rows, outs), 113, np.float32), NativeStep(team(threads))
        reason = step.add(instr, operands, [out], packed_operands_of(instr, operands) if packed else {})
        assert reason is None, reason
        for _ in range(2):
            out[:] = 113
            step()
            np.testing.assert_allclose(
                out, wanted, rtol=1e-5, atol=1e-5 * max(1, np.abs(wanted).max(initial=0))
            )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_random(isa: str, kind: str, seed: int) -> None:
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    outs = 32 * int(rng.integers(1, 4)) if kind != "f32" else int(rng.integers(1, 70))
    depth = 2 * int(rng.integers(1, 90)) if kind != "f32" else int(rng.integers(1, 200))
    rows, experts = int(rng.choice([1, 2, 5, 40])), int(rng.integers(1, 9))
    check(rng, kind, rows, experts, outs, depth, threads=1 + seed % 2)


@pytest.mark.parametrize("kind", ["f32", "i8", "i4"])
def test_all_rows_at_one_expert_and_more_experts_than_rows(isa: str, kind: str) -> None:
    rng = np.random.default_rng(3)
    check(rng, kind, 33, 1, 64, 96, threads=2)
    check(rng, kind, 3, 50, 64, 96, threads=2)


def test_work_is_shared_between_threads_whoever_has_the_rows(isa: str) -> None:
    """Large enough to run on several threads."""
    for threads in (2, 3):
        check(np.random.default_rng(threads), "f32", 24, 4, 300, 512, threads)
        check(np.random.default_rng(threads), "i8", 24, 4, 320, 512, threads)


@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_to_add_up(isa: str, rows: int) -> None:
    rng = np.random.default_rng(0)
    check(rng, "f32", rows, 2, 5, 0 if rows else 8, threads=1)
    check(rng, "i8", rows, 2, 32, 0 if rows else 8, threads=1)


@pytest.mark.parametrize("kind", ["f32", "i8"])
@pytest.mark.parametrize("bad", [3, -4])
def test_an_expert_that_is_not_there(isa: str, kind: str, bad: int) -> None:
    rng = np.random.default_rng(0)
    weight, scales, group = weight_of(rng, kind, 96, 8)
    x, ids = rng.standard_normal((5, 8)).astype(np.float32), np.array([0, 2, bad, 1, 1])
    op = "expert_linear" if kind == "f32" else "expert_linear_q"
    operands = [x, weight, ids] if kind == "f32" else [x, weight, ids, scales]
    attrs = {"experts": 3} if kind == "f32" else {"experts": 3, "group": group}
    step = NativeStep(team(2))
    assert step.add(instruction(op, operands, attrs), operands, [np.empty((5, 32), np.float32)], {}) is None
    with pytest.raises(InputError, match=f"index {bad} is outside an axis of 3"):
        step()


def test_outputs_that_are_no_whole_panels_are_left_to_numpy(isa: str) -> None:
    rng = np.random.default_rng(0)
    operands = [
        np.ones((2, 8), np.float32),
        rng.integers(-9, 9, (20, 8), np.int8),
        np.array([0, 1]),
        np.ones((1, 20), np.float32),
    ]
    reason = native.supports(instruction("expert_linear_q", operands, {"experts": 2}))
    assert reason is not None and "panels" in reason
