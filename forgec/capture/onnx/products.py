"""Products of codes, and look-ups of codes, that are products and look-ups of floats.

ONNX Runtime's ``quantize_dynamic`` writes ``x @ w`` as

    codes, s, zero = DynamicQuantizeLinear(x)
    y = Cast(MatMulInteger(codes, w_codes, zero, w_zero)) * (s * w_scale)

its optimiser makes ``MatMulIntegerToFloat`` or ``DynamicQuantizeMatMul`` of it, and a look-up in a table
becomes ``DequantizeLinear(Gather(codes, ids))``. Each is found by what made its inputs; what else reads these
is not looked at, as they stay where they are wanted. Linear in the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from ...ir.stored import Unkept
from .codes import Codes, Dequantised, bytes_in_file
from .registry import CONTRIB

__all__ = ["Found", "Patterns"]

Known = Callable[[str], np.ndarray | None]


@dataclass(frozen=True)
class Found:
    """A node that is a product of ``x`` and a weight [N, K], with a bias or none (""), or a look-up of its
    rows by ``x``. ``key`` names what the weight is made of, first its codes; those that are ``unkept`` are to
    be multiplied as they are."""

    is_product: bool
    x: str
    bias: str
    key: tuple[str, ...]
    weight: Callable[[], Dequantised]
    unkept: Unkept | None


class Patterns:
    """The nodes of one graph by what they make; ``known`` gives the constants of the names in it."""

    def __init__(self, nodes: Iterable[Any], known: Known) -> None:
        self._made = {name: node for node in nodes for name in node.output if name}
        self._known = known

    def find(self, node: Any) -> Found | None:
        """What a node is, if it is any of these."""
        op, inputs = node.op_type, [*node.input, *[""] * 7]
        if node.domain == CONTRIB and op == "DynamicQuantizeMatMul":
            x, codes, scale, zero, bias = inputs[:5]
            return self._product(x, codes, scale, zero, bias)
        if node.domain == CONTRIB and op == "MatMulIntegerToFloat":
            a, codes, a_scale, scale, a_zero, zero, bias = inputs[:7]
            x = self._rounded(a, a_zero, a_scale)
            return None if x is None else self._product(x, codes, scale, zero, bias)
        if op == "Mul":
            return self._scaled(*inputs[:2]) or self._scaled(*inputs[1::-1])
        return self._look_up(*inputs[:3]) if op == "DequantizeLinear" else None

    def _by(self, name: str, op: str) -> Any:
        node = self._made.get(name)
        return node if node is not None and node.op_type == op and node.domain in ("", "ai.onnx") else None

    def _rounded(self, codes: str, zero: str, scale: str) -> str | None:
        """What was rounded to codes."""
        node = self._by(codes, "DynamicQuantizeLinear")
        return str(node.input[0]) if node is not None and list(node.output) == [codes, scale, zero] else None

    def _scaled(self, sums: str, factor: str) -> Found | None:
        cast, scales = self._by(sums, "Cast"), self._by(factor, "Mul")
        if cast is None or scales is None or _attribute(cast, "to", 0) != TensorProto.FLOAT:
            return None
        product = self._by(cast.input[0], "MatMulInteger")
        if product is None:
            return None
        a, codes, a_zero, zero = [*product.input, "", ""][:4]
        for a_scale, scale in (scales.input, scales.input[::-1]):
            x = self._rounded(a, a_zero, a_scale)
            if x is not None:
                return self._product(x, codes, scale, zero, "")
        return None

    def _product(self, x: str, codes: str, scale: str, zero: str, bias: str) -> Found | None:
        found = self._codes(codes, scale, zero)
        if found is None or found.codes.shape[1] == 0:
            return None
        stored = found.stored(True)
        unkept = stored if isinstance(stored, Unkept) else None
        key = (codes, scale, zero)
        return Found(True, x, bias, key, lambda: found.turned().dequantised(True), unkept)

    def _look_up(self, picked: str, scale: str, zero: str) -> Found | None:
        gather = self._by(picked, "Gather")
        if gather is None or _attribute(gather, "axis", 0) != 0:
            return None
        table, ids = gather.input
        if self._known(ids) is not None:  # the rows are a constant, and the table is not wanted
            return None
        found = self._codes(table, scale, zero)
        if found is None or found.scales.size != 1 or isinstance(found.stored(False), Unkept):
            return None
        return Found(False, ids, "", (table, scale, zero), found.dequantised, None)

    def _codes(self, codes: str, scale: str, zero: str) -> Codes | None:
        """Codes [K, N] with scales for all or for each column, if all are constants."""
        weight, factors, zeros = self._known(codes), self._known(scale), self._known(zero) if zero else None
        if (
            weight is None
            or factors is None
            or (zero and zeros is None)
            or not bytes_in_file(weight)
            or weight.ndim != 2
        ):
            return None
        sizes = {p.size for p in (factors, zeros) if p is not None} - {1, weight.shape[1]}
        if sizes:
            return None
        return Codes.along(weight, factors, zeros, 1, 0)


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)
