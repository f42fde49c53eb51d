"""Which registers share bytes, and how: the strided layout of view registers.

A register written by an ordinary op is contiguous in storage of its own. A register written by a ``view`` op
lies in the storage of its operand; its offset and strides are what numpy's basic indexing rules give. A
``reshape`` whose operand's strides do not allow a view has no layout: the verifier rejects it, and lowering
puts a ``copy`` before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .op import get
from .program import ConstParam, ConstRef, Function, Instr, Operand, Register, StateRef
from .types import contiguous_strides

__all__ = ["Layout", "function_layouts", "view_layout"]


@dataclass(frozen=True)
class Layout:
    """Elements of a register inside the storage of ``base``; offset and strides in elements."""

    base: Operand
    offset: int
    strides: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def contiguous(cls, base: Register | ConstRef | ConstParam | StateRef) -> Layout:
        return cls(base, 0, contiguous_strides(base.type.shape), base.type.shape)

    @property
    def is_contiguous(self) -> bool:
        """True when the elements lie in row-major order without gaps."""
        if 0 in self.shape:
            return True
        expected = contiguous_strides(self.shape)
        return all(n == 1 or s == e for n, s, e in zip(self.shape, self.strides, expected, strict=True))


def view_layout(instr: Instr, operand: Layout) -> Layout | None:
    """Layout of a view instruction's result in its operand's storage, or None if only a copy can do it."""
    attrs = {**get(instr.op).attrs, **instr.attrs}
    shape = instr.results[0].type.shape
    strides: tuple[int, ...] | None
    if instr.op == "transpose":
        strides = tuple(operand.strides[axis] for axis in attrs["perm"])
        return Layout(operand.base, operand.offset, strides, shape)
    if instr.op == "slice":
        axis = attrs["axis"] % len(shape)
        strides = tuple(s * attrs["step"] if i == axis else s for i, s in enumerate(operand.strides))
        return Layout(operand.base, operand.offset + attrs["start"] * operand.strides[axis], strides, shape)
    if instr.op == "expand":
        lead = len(shape) - len(operand.shape)
        strides = (0,) * lead + tuple(
            0 if n == 1 != m else s
            for n, m, s in zip(operand.shape, shape[lead:], operand.strides, strict=True)
        )
        return Layout(operand.base, operand.offset, strides, shape)
    strides = reshape_strides(operand.shape, operand.strides, shape)
    return None if strides is None else Layout(operand.base, operand.offset, strides, shape)


def reshape_strides(
    old_shape: tuple[int, ...], old_strides: tuple[int, ...], new_shape: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Strides of a reshape without moving elements, or None if there are none (numpy's own rule)."""
    if 0 in old_shape:
        return contiguous_strides(new_shape)
    old = [(n, s) for n, s in zip(old_shape, old_strides, strict=True) if n != 1]
    strides: list[int] = [1] * len(new_shape)
    new_axes = [axis for axis, n in enumerate(new_shape) if n != 1]
    i = j = 0
    while i < len(old) and j < len(new_axes):
        have, want = old[i][0], new_shape[new_axes[j]]
        first_old, first_new = i, j
        while have != want:
            if have < want:
                i += 1
                have *= old[i][0]
            else:
                j += 1
                want *= new_shape[new_axes[j]]
        for k in range(first_old, i):
            if old[k][1] != old[k + 1][0] * old[k + 1][1]:
                return None
        step = old[i][1]
        for k in range(j, first_new - 1, -1):
            strides[new_axes[k]] = step
            step *= new_shape[new_axes[k]]
        i += 1
        j += 1
    return tuple(strides)


def function_layouts(
    function: Function,
    arguments: Sequence[Layout] = (),
    call: Callable[[Instr, Sequence[Layout | None]], Sequence[Layout]] | None = None,
) -> dict[Register, Layout | None]:
    """Layout of every register of a function; None marks a view that its operand's strides do not allow.

    Parameters and results of calls are contiguous, unless ``arguments`` gives the layouts of the parameters,
    and ``call`` those of a call's results from those of its register operands.
    """
    layouts: dict[Register, Layout | None] = {r: Layout.contiguous(r) for r in function.params}
    layouts.update(zip(function.params, arguments, strict=False))
    for instr in function.body:
        if instr.op == "call" and call is not None:
            results = call(instr, [layouts[r] for r in instr.registers()])
            layouts.update(zip(instr.results, results, strict=True))
        elif instr.op != "call" and get(instr.op).view:
            source = instr.operands[0]
            if isinstance(source, Register):
                operand = layouts[source]
            else:
                assert isinstance(source, ConstRef | ConstParam | StateRef)
                operand = Layout.contiguous(source)
            layouts[instr.results[0]] = None if operand is None else view_layout(instr, operand)
        else:
            layouts.update((r, Layout.contiguous(r)) for r in instr.results)
    return layouts
