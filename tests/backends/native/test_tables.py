"""Tables of f32 that are looked up by row: as they are, and in the panels that a product reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from forgec.backends.cpu import native
from forgec.backends.cpu.native import pack
from forgec.backends.cpu.native.binding import NativeStep
from native_runs import instruction, team

from forgec.errors import InputError
from forgec.ir.program import ConstRef, Instr, Register
from forgec.ir.types import DType, TensorType

ROWS, DEPTH = 101, 37


def head_of(table: np.ndarray) -> tuple[list[Instr], dict[Any, np.ndarray]]:
    """Rows of a table, and their products with all of it; arrays of the registers by register."""
    f32, weight = DType.F32, ConstRef("c0", TensorType.of(table))
    ids = Register(0, TensorType(DType.I64, (3,)))
    rows, out = Register(1, TensorType(f32, (3, DEPTH))), Register(2, TensorType(f32, (3, ROWS)))
    body = [
        Instr("embedding", (weight, ids), (rows,), {}),
        Instr("linear", (rows, weight, None, None), (out,), {}),
    ]
    arrays = {r: np.zeros(r.type.shape, r.type.dtype.numpy) for r in (ids, rows, out)}
    arrays[ids][:] = [4, ROWS - 1, 0]
    return body, arrays


@pytest.fixture
def table() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, DEPTH), np.float32)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("shape", [(), (7, 3), (0, 4)])
def test_rows_in_panels_are_those_of_the_table(isa: str, table: np.ndarray, dtype: type, shape: Any) -> None:
    ids = np.random.default_rng(1).integers(0, ROWS, shape).astype(dtype)
    instr = instruction("embedding", [table, ids], {})
    product = instruction("linear", [np.zeros((1, DEPTH), np.float32), table, None, None], {})
    out = np.empty((*shape, DEPTH), np.float32)
    step = NativeStep(team(2))
    assert step.add(instr, [table, ids], [out], {0: pack(product, 1, table)}) is None
    step()
    np.testing.assert_array_equal(out, table[ids])
    if ids.size:
        ids.flat[-1] = ROWS
        with pytest.raises(InputError, match=f"index {ROWS} is outside an axis of {ROWS}"):
            step()


@pytest.mark.parametrize("at_hand", [False, True])
def test_a_tied_table_is_read_from_the_head_unless_it_is_at_hand(
    isa: str, table: np.ndarray, at_hand: bool
) -> None:
    body, arrays = head_of(table)
    read: list[str] = []

    class Memory:
        def __call__(self, operand: Any) -> Any:
            if isinstance(operand, ConstRef):
                read.append("kept")
                return table
            return None if operand is None else arrays[operand]

        def once(self, _: ConstRef) -> np.ndarray:
            read.append("packed")
            return table

        def at_hand(self, _: ConstRef) -> bool:
            return at_hand

    for step in native.steps(body, Memory(), pytest.fail, team(1), {}):  # type: ignore[arg-type]
        step()
    _, rows, out = arrays.values()
    np.testing.assert_array_equal(rows, table[[4, ROWS - 1, 0]])
    np.testing.assert_allclose(out, table[[4, ROWS - 1, 0]] @ table.T, rtol=1e-4, atol=1e-4)
    assert read == (["packed", "kept"] if at_hand else ["packed"])
