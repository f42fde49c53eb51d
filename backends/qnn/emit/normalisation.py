"""Norms over the last axis, always on rows.

On HTP a native RMS norm with more than one leading axis silently gives wrong numbers; on rows it is right.
"""

from __future__ import annotations

import numpy as np

from forgec.ir.program import ConstRef, Instr, Operand, Register
from forgec.ir.types import DType

from ...vendor.attributes import number
from .builder import Builder, rows_of
from .registry import emits

__all__: list[str] = []


@emits("layer_norm")
def layer_norm(b: Builder, instr: Instr) -> None:
    x, weight, bias = instr.operands
    _define(b, instr.results[0], _layer_norm(b, x, b.rows(x), weight, bias, number(instr, "eps")))


@emits("rms_norm")
def rms_norm(b: Builder, instr: Instr) -> None:
    x, weight = instr.operands
    _define(b, instr.results[0], _rms_norm(b, x, b.rows(x), weight, number(instr, "eps")))


@emits("add_layer_norm")
def add_layer_norm(b: Builder, instr: Instr) -> None:
    x, residual, weight, bias = instr.operands
    total = b.node("Add", b.rows(x), b.rows(residual), step="residual")
    _define(b, instr.results[0], total)
    _define(b, instr.results[1], _layer_norm(b, x, total, weight, bias, number(instr, "eps")))


@emits("add_rms_norm")
def add_rms_norm(b: Builder, instr: Instr) -> None:
    x, residual, weight = instr.operands
    total = b.node("Add", b.rows(x), b.rows(residual), step="residual")
    _define(b, instr.results[0], total)
    _define(b, instr.results[1], _rms_norm(b, x, total, weight, number(instr, "eps")))


def _define(b: Builder, register: Register, name: str) -> None:
    b.define(register, name, rows_of(register.type.shape))


def _layer_norm(b: Builder, x: Operand, rows: str, weight: Operand, bias: Operand, eps: float) -> str:
    inputs = [rows, _scale(b, weight, x)]
    if bias is not None:
        inputs.append(b.value(bias))
    return b.node("LayerNormalization", *inputs, axis=-1, epsilon=eps, step="layernorm")


def _rms_norm(b: Builder, x: Operand, rows: str, weight: Operand, eps: float) -> str:
    scale = _scale(b, weight, x)
    return b.node("RMSNormalization", rows, scale, axis=-1, epsilon=eps, step="rmsnorm")


def _scale(b: Builder, weight: Operand, x: Operand) -> str:
    if weight is not None:
        return b.value(weight)
    assert isinstance(x, Register | ConstRef)
    size = x.type.shape[-1]
    return b.once(("ones", size), lambda: b.initializer(np.ones(size, DType.F32.numpy)))
