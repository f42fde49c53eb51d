"""Point-wise kernels: numpy ufuncs writing straight into the output.

A ufunc is safe when its output is exactly one of its inputs. Where an intermediate is needed it lies in
scratch, and no input is read after the output was written, unless the input provably lies elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import special

from .registry import Array, Call, Step, is_blas_float, kernel, overlap

__all__ = ["bind_activation"]

_UNARY = {
    "neg": np.negative,
    "abs": np.absolute,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "erf": special.erf,
    "sigmoid": special.expit,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "sign": np.sign,
}
_BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "floor_div": np.floor_divide,
    "mod": np.mod,
}
_COMPARE = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}


@kernel(*_UNARY)
def _unary(call: Call) -> Step | None:
    x = call.array(0)
    return partial(_UNARY[call.op], x, call.out) if is_blas_float(x) else None


@kernel("rsqrt")
def _rsqrt(call: Call) -> Step | None:
    x, out = call.array(0), call.out
    if not is_blas_float(x):
        return None

    def step() -> None:
        np.sqrt(x, out)
        np.reciprocal(out, out)

    return step


@kernel(*_BINARY)
def _binary(call: Call) -> Step | None:
    a, b = call.array(0), call.array(1)
    if a.dtype == np.bool_ or (call.op == "div" and not is_blas_float(a)):
        return None
    return partial(_BINARY[call.op], a, b, out=call.out)


@kernel(*_COMPARE)
def _compare(call: Call) -> Step | None:
    return partial(_COMPARE[call.op], call.array(0), call.array(1), call.out)


@kernel("not")
def _not(call: Call) -> Step | None:
    return partial(np.logical_not, call.array(0), call.out)


@kernel("pow")
def _power(call: Call) -> Step | None:
    a, b = call.array(0), call.array(1)
    if not is_blas_float(a):
        return None
    if b.ndim == 0 and not b.flags.writeable and b == 2:
        return partial(np.multiply, a, a, call.out)
    return partial(np.power, a, b, call.out)


@kernel("clamp")
def _clamp(call: Call) -> Step | None:
    x, out = call.array(0), call.out
    low, high = (
        None if call.attrs[side] is None else x.dtype.type(call.attrs[side]) for side in ("low", "high")
    )
    if low is None and high is None:
        return partial(np.copyto, out, x)
    return partial(np.clip, x, low, high, out)


@kernel("where")
def _where(call: Call) -> Step | None:
    condition, a, b, out = call.array(0), call.array(1), call.array(2), call.out
    if not overlap(a, out):

        def step() -> None:
            np.copyto(out, b)
            np.copyto(out, a, where=condition)

        return step
    if overlap(b, out):
        return None
    inverse = call.scratch.take(condition.shape, condition.dtype)

    def step_over_a() -> None:
        np.logical_not(condition, inverse)
        np.copyto(out, a)
        np.copyto(out, b, where=inverse)

    return step_over_a


@kernel("cast")
def _cast(call: Call) -> Step | None:
    return partial(np.copyto, call.out, call.array(0), casting="unsafe")


@kernel("gelu", "gelu_tanh", "silu", "relu")
def _activation(call: Call) -> Step | None:
    return bind_activation(call.op, call.array(0), call.out, call)


@kernel("gated")
def _gated(call: Call) -> Step | None:
    gate, up, out = call.array(0), call.array(1), call.out
    activated = call.scratch.take(gate.shape, gate.dtype)
    activate = bind_activation(call.attrs["act"], gate, activated, call)
    if activate is None:
        return None

    def step() -> None:
        activate()
        np.multiply(activated, up, out)

    return step


def bind_activation(act: str, x: Array, out: Array, call: Call) -> Step | None:
    """A step that puts the named activation of ``x`` into ``out``, which may be ``x`` itself.

    None if there is no kernel for the activation or the element type.
    """
    if not is_blas_float(x) or act not in _ACTIVATIONS:
        return None
    return _ACTIVATIONS[act](x, out, call)


def _gelu(x: Array, out: Array, call: Call) -> Step:
    work = call.scratch.take(x.shape, x.dtype)

    def step() -> None:
        np.multiply(x, 0.7071067811865476, work)
        special.erf(work, work)
        np.add(work, 1.0, work)
        np.multiply(work, 0.5, work)
        np.multiply(x, work, out)

    return step


def _gelu_tanh(x: Array, out: Array, call: Call) -> Step:
    work = call.scratch.take(x.shape, x.dtype)

    def step() -> None:
        np.multiply(x, x, work)
        np.multiply(work, 0.044715 * 0.7978845608028654, work)
        np.add(work, 0.7978845608028654, work)
        np.multiply(work, x, work)
        np.tanh(work, work)
        np.add(work, 1.0, work)
        np.multiply(work, 0.5, work)
        np.multiply(x, work, out)

    return step


def _silu(x: Array, out: Array, call: Call) -> Step:
    work = call.scratch.take(x.shape, x.dtype)

    def step() -> None:
        special.expit(x, work)
        np.multiply(x, work, out)

    return step


def _relu(x: Array, out: Array, call: Call) -> Step:
    return partial(np.maximum, x, x.dtype.type(0), out=out)


_ACTIVATIONS: dict[str, Callable[[Array, Array, Call], Step]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "relu": _relu,
    "sigmoid": lambda x, out, call: partial(special.expit, x, out),
    "tanh": lambda x, out, call: partial(np.tanh, x, out),
}
