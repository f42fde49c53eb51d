"""Runs one op natively and compares it with the op's reference evaluation in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from forgec.backends.cpu.native import Team, pack, packed_operands
from forgec.backends.cpu.native.binding import NativeStep

from forgec.ir.op import get
from forgec.ir.program import ConstRef, Instr, Literal, Operand, Register
from forgec.ir.types import TensorType

__all__ = ["assert_matches", "instruction", "random_attention", "reference", "run_native", "strided"]


@cache
def team(threads: int) -> Team:
    return Team(threads)


def instruction(
    op: str, operands: Sequence[Any], attrs: Mapping[str, Any], constants: Sequence[int] = ()
) -> Instr:
    """The instruction of an op on these arrays, scalars and Nones; ``constants`` are operands by number."""
    types = [TensorType.of(x) if isinstance(x, np.ndarray) else None for x in operands]
    results = get(op).result_types(types, attrs)
    ir: list[Operand] = []
    for i, (x, t) in enumerate(zip(operands, types, strict=True)):
        if t is None:
            ir.append(None if x is None else Literal(x))
        else:
            ir.append(ConstRef(f"c{i}", t) if i in constants else Register(i, t))
    numbered = tuple(Register(100 + i, t) for i, t in enumerate(results))
    return Instr(op, tuple(ir), numbered, dict(attrs))


def packed_operands_of(instr: Instr, operands: Sequence[Any]) -> dict[int, np.ndarray]:
    """The constants of an instruction that its kernel wants in layouts of their own, in these."""
    return {i: pack(instr, i, operands[i]) for i in packed_operands(instr)}


def run_native(
    op: str,
    operands: Sequence[Any],
    attrs: Mapping[str, Any],
    *,
    threads: int = 1,
    packed: bool = False,
    outputs: Sequence[np.ndarray] | None = None,
    runs: int = 2,
) -> list[np.ndarray]:
    """The results; ``packed`` packs the weight of a linear as a constant would be."""
    instr = instruction(op, operands, attrs, (1,) if packed else ())
    if outputs is None:
        outputs = [np.full(r.type.shape, 113, r.type.dtype.numpy) for r in instr.results]
    step = NativeStep(team(threads))
    reason = step.add(instr, operands, outputs, packed_operands_of(instr, operands))
    assert reason is None, reason
    for _ in range(runs):
        step()
    return list(outputs)


def reference(op: str, operands: Sequence[Any], attrs: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """The op's reference evaluation with f32 operands widened to float64."""
    wide = [
        x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x for x in operands
    ]
    with np.errstate(all="ignore"):
        return get(op).evaluate(wide, attrs)


ROUNDS = ("avx512bf16", "amx")
"""Instruction sets with products of bf16; attention that may round its factors does there, and nowhere else."""


def assert_matches(
    op: str, operands: Sequence[Any], attrs: Mapping[str, Any], tolerance: float = 2e-6, **how: Any
) -> None:
    """Native results equal the reference: exactly for integers and booleans, to ``tolerance`` for floats.

    The tolerance is relative to the larger of 1 and the largest finite reference value.
    """
    expected = reference(op, operands, attrs)
    for got, want in zip(run_native(op, operands, attrs, **how), expected, strict=True):
        assert got.shape == want.shape
        if got.dtype.kind in "iub":
            np.testing.assert_array_equal(got, want.astype(got.dtype))
            continue
        wide = got.astype(np.float64)
        finite = np.isfinite(want)
        scale = max(1.0, float(np.abs(want[finite]).max(initial=0.0)))
        np.testing.assert_array_equal(np.isnan(wide), np.isnan(want))
        np.testing.assert_allclose(wide, want, rtol=tolerance, atol=tolerance * scale)


def strided(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """The same elements with other strides: axes permuted in memory, or every second of a larger array."""
    if array.ndim and rng.random() < 0.5:
        order = rng.permutation(array.ndim)
        back = np.argsort(order)
        return np.ascontiguousarray(array.transpose(order)).transpose(back)
    wide = np.zeros((*array.shape[:-1], array.shape[-1] * 2) if array.ndim else (), array.dtype)
    if not array.ndim:
        return array
    wide[..., ::2] = array
    return wide[..., ::2]


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def random_attention(rng: np.random.Generator, seed: int) -> tuple[list[Any], dict[str, Any]]:
    """Operands and attributes: grouped heads, tails, masks of both types, windows, caps, strides."""
    batch, kv_heads = (int(v) for v in rng.integers(1, 4, 2))
    group = int(rng.choice([1, 2, 3, 7, 11]))
    rows = int(rng.choice([1, 2, 3, 15, 40]))
    length = int(rng.choice([1, 7, 33, 130, 300]))
    size, value_size = int(rng.integers(1, 70)), int(rng.integers(1, 70))
    heads = kv_heads * group
    q, k, v = (
        _normal(rng, batch, heads, rows, size),
        _normal(rng, batch, kv_heads, length, size),
        _normal(rng, batch, kv_heads, length, value_size),
    )
    shape = [n if rng.random() < 0.6 else 1 for n in (batch, heads, rows, length)]
    mask: np.ndarray | None = None
    if seed % 3 == 1:
        mask = rng.random(shape) > 0.4
    elif seed % 3 == 2:
        mask = _normal(rng, *shape)
        mask[rng.random(shape) > 0.7] = -np.inf
    attrs = {
        "scale": float(size**-0.5),
        "causal": bool(rng.random() < 0.5),
        "window": int(rng.choice([0, 0, 1, 9, 150])),
        "softcap": float(rng.choice([0.0, 0.0, 2.5])),
        "seq_major": bool(rng.random() < 0.5),
    }
    return [strided(rng, x) if x is not None and rng.random() < 0.5 else x for x in (q, k, v, mask)], attrs
