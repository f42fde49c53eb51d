"""Complex numbers as pairs of real ones: what models turn queries and keys with.

A complex tensor of shape ``[...]`` is a real one of shape ``[..., 2]``, as ``torch.view_as_real`` has it: its
real form. Here is what the operators on complex tensors are on those, for the ones that rotations are written
with. A product is spelled as a rotation of neighbouring channels, which a pass and the kernels know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

__all__ = ["Pairs", "real_form", "rule_of"]


@dataclass(frozen=True)
class Pairs:
    """A complex tensor by its real form."""

    real: Tensor

    @property
    def re(self) -> Tensor:
        return self.real.select(-1, 0)

    @property
    def im(self) -> Tensor:
        return self.real.select(-1, 1)


Operand = Pairs | Tensor | complex | float
Rule = Callable[..., Any]

_RULES: dict[str, Rule] = {}


def real_form(tensor: Tensor) -> Tensor:
    """The real form of a complex tensor that has values, a view; another tensor as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def rule_of(func: torch._ops.OpOverload) -> Rule | None:
    """What an operator is on pairs: takes its operands, complex ones as ``Pairs``, and gives its results so.
    None if that is not known."""
    name = func._schema.name.removeprefix("aten::")
    return _by_axes(func, name) if name in _BY_AXES else _RULES.get(name)


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def _pairs(re: Tensor, im: Tensor) -> Pairs:
    return Pairs(torch.stack([re, im], -1))


def _parts(x: Operand) -> tuple[Any, Any]:
    """Real and imaginary part; 0 for that of a real operand."""
    if isinstance(x, Pairs):
        return x.re, x.im
    return (x.real, x.imag) if isinstance(x, complex) else (x, 0)


@_rule("view_as_complex")
def _view_as_complex(x: Tensor) -> Pairs:
    return Pairs(x)


@_rule("view_as_real")
def _view_as_real(x: Pairs) -> Tensor:
    return x.real


@_rule("complex")
def _complex(re: Tensor, im: Tensor) -> Pairs:
    return _pairs(re, im)


@_rule("polar")
def _polar(length: Tensor, angle: Tensor) -> Pairs:
    return _pairs(length * angle.cos(), length * angle.sin())


@_rule("real")
def _real(x: Pairs) -> Tensor:
    return x.re


@_rule("imag")
def _imag(x: Pairs) -> Tensor:
    return x.im


@_rule("abs")
def _abs(x: Pairs) -> Tensor:
    return (x.re * x.re + x.im * x.im).sqrt()


@_rule("angle")
def _angle(x: Pairs) -> Tensor:
    return torch.atan2(x.im, x.re)


@_rule("conj", "_conj", "conj_physical", "_conj_physical")
def _conj(x: Pairs) -> Pairs:
    return _pairs(x.re, -x.im)


@_rule("resolve_conj", "detach", "alias")
def _same(x: Pairs) -> Pairs:
    return x


@_rule("contiguous")
def _contiguous(x: Pairs, **_: Any) -> Pairs:
    return Pairs(x.real.contiguous())


@_rule("clone", "to", "_to_copy")
def _copy(x: Pairs | Tensor, *_: Any, **__: Any) -> Pairs:
    """With memory of its own, also where it need not have that."""
    return Pairs(x.real.clone()) if isinstance(x, Pairs) else _pairs(x, torch.zeros_like(x))


@_rule("exp")
def _exp(x: Pairs) -> Pairs:
    return _polar(x.re.exp(), x.im)


@_rule("neg")
def _neg(x: Pairs) -> Pairs:
    return Pairs(-x.real)


@_rule("add")
def _add(x: Operand, y: Operand, *, alpha: float = 1) -> Pairs:
    (a, b), (c, d) = _parts(x), _parts(y)
    return _joined(a + alpha * c, b + alpha * d)


@_rule("sub")
def _sub(x: Operand, y: Operand, *, alpha: float = 1) -> Pairs:
    return _add(x, y, alpha=-alpha)


@_rule("div")
def _div(x: Pairs, y: Operand) -> Pairs:
    if not isinstance(y, Pairs | complex):
        return Pairs(x.real / (y.unsqueeze(-1) if isinstance(y, Tensor) else y))
    c, d = _parts(y)
    return _div(_mul(x, _conj(y) if isinstance(y, Pairs) else y.conjugate()), c * c + d * d)


@_rule("mul")
def _mul(x: Operand, y: Operand) -> Pairs:
    if isinstance(x, Pairs) and isinstance(y, Pairs) and min(x.real.ndim, y.real.ndim) > 1:
        turned, by = (x, y) if x.real.numel() >= y.real.numel() else (y, x)
        return _turned(turned.real, by)
    for one, other in ((x, y), (y, x)):
        if isinstance(one, Pairs) and not isinstance(other, Pairs | complex):
            return Pairs(one.real * (other.unsqueeze(-1) if isinstance(other, Tensor) else other))
    (a, b), (c, d) = _parts(x), _parts(y)
    return _joined(a * c - b * d, a * d + b * c)


def _turned(x: Tensor, by: Pairs) -> Pairs:
    """A product as a rotation of neighbouring channels, stretched by the second factor's length."""
    channels = max(x.shape[-2], by.real.shape[-2])
    x = x.expand(*x.shape[:-2], channels, 2).flatten(-2)
    cos, sin = (
        part.unsqueeze(-1).expand(*part.shape[:-1], channels, 2).flatten(-2) for part in (by.re, by.im)
    )
    rotated = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return Pairs((x * cos + rotated * sin).unflatten(-1, (channels, 2)))


def _joined(re: Any, im: Any) -> Pairs:
    """A pair of parts of which one may be a number, or have to be spread over the other."""
    shape = torch.broadcast_shapes(*(x.shape for x in (re, im) if isinstance(x, Tensor)))
    some = re if isinstance(re, Tensor) else im
    re, im = (x if isinstance(x, Tensor) else torch.full(shape, x, dtype=some.dtype) for x in (re, im))
    return _pairs(re.expand(shape), im.expand(shape))


@_rule("view", "reshape", "_unsafe_view")
def _reshape(x: Pairs, size: Sequence[int]) -> Pairs:
    return Pairs(x.real.reshape(*size, 2))


@_rule("expand")
def _expand(x: Pairs, size: Sequence[int], **_: Any) -> Pairs:
    return Pairs(x.real.expand(*size, 2))


@_rule("permute")
def _permute(x: Pairs, dims: Sequence[int]) -> Pairs:
    rank = x.real.ndim - 1
    return Pairs(x.real.permute(*(axis % rank for axis in dims), rank))


@_rule("index")
def _index(x: Pairs, indices: Sequence[Tensor | None]) -> Pairs:
    return Pairs(torch.ops.aten.index.Tensor(x.real, indices))


_BY_AXES = {
    *("transpose", "select", "slice", "index_select", "narrow", "flatten", "unflatten", "squeeze"),
    *("unsqueeze", "cat", "stack", "split", "split_with_sizes", "chunk", "unbind"),
}
"""Operators that do the same to pairs, when axes are counted from the front."""

_NEW_AXIS = {"unsqueeze", "stack"}
_AXES = {"dim", "dim0", "dim1", "dims", "start_dim", "end_dim"}


def _by_axes(func: torch._ops.OpOverload, name: str) -> Rule | None:
    arguments = func._schema.arguments
    if not _AXES.intersection(a.name for a in arguments):
        return None

    def rule(*args: Any, **kwargs: Any) -> Any:
        given: dict[str, Any] = {a.name: a.default_value for a in arguments if a.has_default_value()}
        given |= dict(zip((a.name for a in arguments), args, strict=False)) | kwargs
        whole = given[arguments[0].name]
        rank = (whole if isinstance(whole, Pairs) else whole[0]).real.ndim - 1 + (name in _NEW_AXIS)
        for key in _AXES & given.keys():
            axes = given[key]
            given[key] = [a % rank for a in axes] if isinstance(axes, list | tuple) else axes % rank
        made = func(**tree_map_only(Pairs, lambda x: x.real, given))
        return tuple(map(Pairs, made)) if isinstance(made, list | tuple) else Pairs(made)

    return rule
