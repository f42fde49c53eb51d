"""Recognise activations that a model spells out.

*Before* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), also with x taken out of the cubic; 0.5 x (1 + erf(x
/ sqrt(2))); x * sigmoid(x).
*After* aten.gelu (tanh or exact), aten.silu.
*Does not fire when* a constant differs, an inner value has another user, or the result's type is not that of
x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..graph import new_call
from .base import Context, NodePass, replace
from .patterns import ADD, MUL, Any_, Number, Op, match_pattern
from .shapes import same_type

aten = torch.ops.aten
_X = Any_("x")
_HALF = (Op(MUL, _X, Number(0.5)), Op((aten.div.Tensor,), _X, Number(2.0)))
_CUBE = (
    Op((aten.pow.Tensor_Scalar,), _X, Number(3.0)),
    Op(MUL, Op(MUL, _X, _X), _X),
)
_SQRT_2_OVER_PI, _SQRT_HALF = 0.7978845608028654, 0.7071067811865476


def _cubic(cube: Op) -> Op:
    return Op(MUL, Op(ADD, _X, Op(MUL, cube, Number(0.044715))), Number(_SQRT_2_OVER_PI))


_FACTORED = Op(
    MUL,
    Op(MUL, _X, Number(_SQRT_2_OVER_PI)),
    Op(ADD, Op(MUL, Op(MUL, _X, Number(0.044715)), _X), Number(1.0)),
)
_BENDS = (aten.tanh.default, aten.erf.default, aten.sigmoid.default)
_TANH = [Op((aten.tanh.default,), argument) for argument in (*map(_cubic, _CUBE), _FACTORED)]
_ERF = [
    Op((aten.erf.default,), Op(MUL, _X, Number(_SQRT_HALF))),
    Op((aten.erf.default,), Op((aten.div.Tensor,), _X, Number(1 / _SQRT_HALF))),
]


def _gelu_forms(bend: Op) -> list[Op]:
    """The ways to multiply x, 1/2 and 1 + bend."""
    gate = Op(ADD, bend, Number(1.0))
    forms = [Op(MUL, half, gate) for half in _HALF]
    forms.append(Op(MUL, Op(MUL, _X, gate), Number(0.5)))
    forms.append(Op(MUL, _X, Op(MUL, gate, Number(0.5))))
    return forms


_FORMS: list[tuple[Op, Any, dict[str, Any]]] = [
    *((form, aten.gelu.default, {"approximate": "tanh"}) for bend in _TANH for form in _gelu_forms(bend)),
    *((form, aten.gelu.default, {}) for bend in _ERF for form in _gelu_forms(bend)),
    (Op(MUL, _X, Op((aten.sigmoid.default,), _X)), aten.silu.default, {}),
]


class ActivationFusion(NodePass):
    name = "activation_fusion"
    fusion = True
    roots = MUL

    def match(self, node: fx.Node, context: Context) -> Any:
        if not any(_bends(a) for a in node.args):
            return None
        for pattern, target, kwargs in _FORMS:
            found = match_pattern(pattern, node, context)
            if found and same_type(node, found["x"]):
                return found["x"], target, kwargs
        return None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        x, target, kwargs = match
        with graph.inserting_before(node):
            replace(node, new_call(graph, target, (x,), kwargs, like=node))


def _bends(value: Any, steps: int = 3) -> bool:
    """Cheap look before the patterns: an operand that leads to tanh, erf or sigmoid within three steps."""
    if not isinstance(value, fx.Node) or value.op != "call_function" or not steps:
        return False
    return value.target in _BENDS or any(_bends(a, steps - 1) for a in value.all_input_nodes)
