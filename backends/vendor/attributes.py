"""Attributes of instructions by kind, with the defaults of the op's record."""

from __future__ import annotations

from forgec.ir.op import get
from forgec.ir.program import AttrValue, Instr

__all__ = ["flag", "integer", "integers", "number", "text"]


def _value(instr: Instr, key: str) -> AttrValue:
    value: AttrValue = instr.attrs.get(key, get(instr.op).attrs[key])
    return value


def integer(instr: Instr, key: str) -> int:
    value = _value(instr, key)
    assert isinstance(value, int)
    return value


def number(instr: Instr, key: str) -> float:
    value = _value(instr, key)
    assert isinstance(value, int | float)
    return float(value)


def flag(instr: Instr, key: str) -> bool:
    return bool(_value(instr, key))


def text(instr: Instr, key: str) -> str:
    return str(_value(instr, key))


def integers(instr: Instr, key: str) -> tuple[int, ...]:
    value = _value(instr, key)
    assert isinstance(value, tuple)
    return value
