"""Offsets of weights with zero points: what they add to products and look-ups of codes, as instructions.

A weight ``codes * scales + offsets``, with an offset for each group of a row [out, groups], has the product
``x @ (codes * scales).T + sums @ offsets.T`` with the sums of x over groups [.., groups].

*Before* ``y = linear_q x, codes, scales, bias, residual``.
*After* ``s = sum x; o = linear s, offsets, residual; y = linear_q x, codes, scales, bias, o``. An activation
applies to all of that: it becomes an instruction behind the product, and the residual one behind it.

Only the last axis of x is cut into groups, so that every reshape is a view. Products of one x in groups of
one size share their sums. Where activations are rounded for codes of 8 bits, the sums are of the rounded
ones, a product with codes of one: what rounding changes is multiplied by the weight then, and not by codes,
which may all be far from their middle. Codes of 4 bits are never far from theirs. Linear in the instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from .op import get
from .ops.compressed import groups_of
from .program import AttrValue, ConstRef, Function, Instr, Literal, Operand, Register, Source
from .types import DType, TensorType

__all__ = ["Offsets"]


class Offsets:
    """Instructions for the offsets of one function. ``ones`` gives codes of one for rows of a length, and
    their scale."""

    def __init__(self, function: Function, ones: Callable[[int], tuple[ConstRef, ConstRef]]) -> None:
        made = [r.id for instr in function.body for r in instr.results]
        self._next = max([*made, *(r.id for r in function.params)], default=-1) + 1
        self._ones = ones
        self._sums: dict[tuple[Operand, int, bool], Register] = {}
        self._body: list[Instr] = []
        self._source: Source | None = None

    def added(self, instr: Instr, offsets: Operand) -> list[Instr]:
        """A ``linear_q`` or ``embedding_q`` without offsets as instructions that add them."""
        self._body, self._source = [], instr.source
        group = int(str(instr.attrs.get("group", 0)))
        if instr.op == "embedding_q":
            self._embedding(instr, offsets, group)
        else:
            self._linear(instr, offsets, group)
        return self._body

    def _linear(self, instr: Instr, offsets: Operand, group: int) -> None:
        x, *weight, residual = instr.operands
        act = str(instr.attrs.get("act", ""))
        given = None if act else residual
        rounds = bool(instr.attrs.get("dynamic")) and _type(weight[0]).dtype is DType.I8
        shift = self._emit("linear", self._group_sums(x, group, rounds), offsets, None, given)
        if not act:
            self._body.append(replace(instr, operands=(x, *weight, shift)))
            return
        product = self._emit("linear_q", x, *weight, shift, attrs={**instr.attrs, "act": ""})
        if residual is None:
            self._emit(act, product, to=instr.results)
        else:
            self._emit("add", self._emit(act, product), residual, to=instr.results)

    def _group_sums(self, x: Operand, group: int, rounds: bool) -> Register:
        """The sums [.., groups] of x over its groups, or of x rounded, which has one."""
        found = self._sums.get((x, group, rounds))
        if found is None:
            depth = _type(x).shape[-1]
            if rounds:
                found = self._emit("linear_q", x, *self._ones(depth), None, None, dynamic=True)
            elif groups_of(depth, group) == 1:
                found = self._emit("sum", x, axes=(-1,), keepdims=True)
            else:
                whole, *rest = self._split(x, group, depth // group)
                found = self._emit("sum", whole, axes=(-1,))
                for part in rest:
                    found = self._emit(
                        "concat", found, self._emit("sum", part, axes=(-1,), keepdims=True), axis=-1
                    )
            self._sums[x, group, rounds] = found
        return found

    def _embedding(self, instr: Instr, offsets: Operand, group: int) -> None:
        table, ids, scales = instr.operands
        shape = instr.results[0].type.shape
        rows = self._emit("embedding_q", table, ids, scales, attrs=instr.attrs)
        shifts = self._emit("embedding", offsets, ids)
        if groups_of(shape[-1], group) == 1:
            self._emit("add", rows, shifts, to=instr.results)
            return
        count = shape[-1] // group
        whole, *rest = [
            self._emit("add", part, shift)
            for part, shift in zip(
                self._split(rows, group, count), self._split(shifts, 1, count), strict=True
            )
        ]
        flat = (*shape[:-1], count * group)
        if rest:
            self._emit("concat", self._emit("reshape", whole, shape=flat), *rest, axis=-1, to=instr.results)
        else:
            self._emit("reshape", whole, shape=flat, to=instr.results)

    def _split(self, x: Operand, size: int, count: int) -> list[Register]:
        """The first ``count`` blocks of the last axis as [.., count, size], and what is left of it, if
        anything."""
        *lead, depth = _type(x).shape
        whole, rest = x, []
        if count * size < depth:
            axis = len(lead)
            whole = self._emit("slice", x, axis=axis, stop=count * size)
            rest = [self._emit("slice", x, axis=axis, start=count * size, stop=depth)]
        return [self._emit("reshape", whole, shape=(*lead, count, size)), *rest]

    def _emit(
        self,
        op: str,
        *operands: Operand,
        to: tuple[Register, ...] = (),
        attrs: Mapping[str, AttrValue] | None = None,
        **further: AttrValue,
    ) -> Register:
        record = get(op)
        attrs = {k: v for k, v in {**(attrs or {}), **further}.items() if record.attrs[k] != v}
        if not to:
            types = [None if x is None else _type(x) for x in operands]
            to = tuple(Register(self._next, kind) for kind in record.result_types(types, attrs))
            self._next += 1
        self._body.append(Instr(op, operands, to, attrs, self._source))
        return to[0]


def _type(x: Operand) -> TensorType:
    assert x is not None and not isinstance(x, Literal), "the operands of these ops are tensors"
    return x.type
