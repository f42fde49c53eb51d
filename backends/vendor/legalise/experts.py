"""Products with the weights of experts as a gather of these and a product.

Before: ``y = expert_linear x, w, ids {experts}``. After: ``g = gather w, ids``; ``y = matmul g, x``, with the
experts as an axis of w, and reshapes.
"""

from __future__ import annotations

from collections.abc import Sequence

from forgec.ir.program import Instr, Operand

from .builder import Builder, type_of

__all__ = ["gather_experts"]


def gather_experts(build: Builder, instr: Instr) -> Sequence[Operand] | None:
    if instr.op != "expert_linear":
        return None
    x, weight, ids = instr.operands
    kind, (rows, outs) = type_of(weight), instr.results[0].type.shape
    assert kind is not None
    depth = kind.shape[1]
    of_all = build.op("reshape", weight, shape=(kind.shape[0] // outs, outs, depth))
    product = build.op(
        "matmul", build.op("gather", of_all, ids), build.op("reshape", x, shape=(rows, depth, 1))
    )
    return (build.op("reshape", product, shape=(rows, outs)),)
