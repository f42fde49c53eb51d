"""The text form of programs: one typed instruction a line, the same before and after planning.

::

    program @main(r0 "ids": i64[1,8]) -> (r3 "logits": f32[1,8,9]) {
      const c0: f32[9,4] = "wte.weight"
      const c1: f32[4,9] = transpose("head.weight": f32[9,4]) {perm=[1,0]}
      state s0: f32[1,8,4]
      r1: f32[1,8,4] @cpu +0x800 = embedding c0, r0           # aten.embedding, model.py:41, wte
      r2: f32[1,8,4] = call @block r1, c1
      @cpu = write_state s0, r2
      ...
      return r3
    }

    function @block(r0: f32[1,8,4], k0: f32[4,9]) -> (f32[1,8,4]) {
      ...
    }

Parameters and results of the entry have quoted names, those of other functions none. Before ``=`` stand the
results with their types, then ``@device``, then one ``+offset`` in bytes per result (``+_`` for a result
without one). Operands follow the op: registers ``r``, constants ``c``, states ``s``, constant parameters
``k``, literals, and ``_`` for one left out; trailing ones left out are not written. Attributes are written as
the instruction stores them, in the order of the op's record. The comment is the instruction's source:
operator, ``file:line``, module, with ``_`` for a file that is not known. Text that is not a plain word is
quoted; in quotes ``\\"``, ``\\\\``, ``\\n``, ``\\r``, ``\\t`` and ``\\u{hex}`` are escapes.

Law: for every program that ``verifier.verify`` accepts, ``parse(to_text(p)) == p``. Printing never fails, so
that error messages can show instructions that are wrong. Linear in the size of the program.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain, repeat

from .op import OPS
from .program import AttrValue, Function, Instr, Leaf, Literal, Operand, Program, Recipe, Source
from .types import TensorType

__all__ = ["InstrText", "format_instr", "format_operand", "format_recipe", "format_source", "to_text"]

SOURCE_COLUMN = 72
"""Column that source comments start at, unless the instruction is longer."""

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_WORD = re.compile(r"[A-Za-z0-9_./<>-]+")


def quote(text: str) -> str:
    """``text`` in double quotes, on one line, with everything unprintable escaped."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    escaped = (_ESCAPES.get(c) or (c if c.isprintable() else f"\\u{{{ord(c):x}}}") for c in text)
    return f'"{"".join(escaped)}"'


def format_value(value: AttrValue) -> str:
    """A literal or an attribute value; floats by ``repr``, so that they come back exactly."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value)


def format_operand(operand: Operand) -> str:
    if operand is None:
        return "_"
    return format_value(operand.value) if isinstance(operand, Literal) else str(operand)


def format_attrs(attrs: Iterable[tuple[str, AttrValue]]) -> str:
    """`` {key=value, ...}`` with the leading space, or nothing."""
    text = ", ".join([f"{key}={format_value(value)}" for key, value in attrs])
    return f" {{{text}}}" if text else ""


def _in_record_order(op: str, attrs: dict[str, AttrValue]) -> list[tuple[str, AttrValue]]:
    record = OPS.get(op)
    known = [key for key in record.attrs if key in attrs] if record else []
    return [(key, attrs[key]) for key in (*known, *(key for key in attrs if key not in known))]


class InstrText:
    """An instruction's line in pieces, so that an error can point at one operand."""

    def __init__(self, instr: Instr) -> None:
        attrs = instr.attrs
        head = ", ".join([f"{r}: {r.type}" for r in instr.results])
        if instr.device is not None:
            head += f" @{instr.device}" if head else f"@{instr.device}"
        for offset in instr.offsets:
            head += " +_" if offset is None else f" +{offset:#x}"
        self.head = f"{head} = {instr.op}" if head else instr.op
        if "callee" in attrs:
            self.head += f" @{attrs['callee']}"
            attrs = {key: value for key, value in attrs.items() if key != "callee"}
        self.operands = [format_operand(operand) for operand in instr.operands[: _written(instr)]]
        self.tail = format_attrs(_in_record_order(instr.op, attrs)) if attrs else ""

    def __str__(self) -> str:
        operands = f" {', '.join(self.operands)}" if self.operands else ""
        return self.head + operands + self.tail

    def caret(self, operand: int | None) -> str:
        """A line of blanks and carets to put under the text: under one operand, or under all of it."""
        if operand is None:
            return "^" * len(str(self))
        before = len(self.head) + 1 + sum(len(text) + 2 for text in self.operands[:operand])
        width = len(self.operands[operand]) if operand < len(self.operands) else 1
        return " " * before + "^" * width


def format_instr(instr: Instr) -> str:
    """The instruction's line without its source comment."""
    return str(InstrText(instr))


def _written(instr: Instr) -> int:
    """How many operands are written: all but those at the end that are left out."""
    record = OPS.get(instr.op)
    count = len(instr.operands)
    if record is None or count != len(record.operands):
        return count
    while count and instr.operands[count - 1] is None and record.operands[count - 1].optional:
        count -= 1
    return count


def format_source(source: Source) -> str:
    """The source as a comment, ``# aten.linear, model.py:41, layers.0.mlp``."""
    parts = [_word(source.aten)]
    if source.file is not None or source.line is not None or source.module is not None:
        place = "_" if source.file is None else _word(source.file)
        parts.append(place if source.line is None else f"{place}:{source.line}")
    if source.module is not None:
        parts.append(_word(source.module))
    return "# " + ", ".join(parts)


def _word(text: str) -> str:
    return text if _WORD.fullmatch(text) and text != "_" else quote(text)


def format_recipe(recipe: Recipe, declared: TensorType | None = None) -> str:
    """A recipe; a source tensor's type is left out when it is the ``declared`` type of the constant."""
    if isinstance(recipe, Leaf):
        return quote(recipe.name) if recipe.type == declared else f"{quote(recipe.name)}: {recipe.type}"
    args = (
        format_recipe(arg) if arg is not None and not isinstance(arg, Literal) else format_operand(arg)
        for arg in recipe.args
    )
    return f"{recipe.op}({', '.join(args)}){format_attrs(recipe.attrs)}"


def _signature(keyword: str, function: Function) -> str:
    params = [
        f"{r} {quote(name)}: {r.type}" if name else f"{r}: {r.type}"
        for r, name in zip(function.params, chain(function.param_names, repeat("")), strict=False)
    ]
    params += [f"{k}: {k.type}" for k in function.const_params]
    results = [
        f"{r} {quote(name)}: {r.type}" if name else str(r.type)
        for r, name in zip(function.results, chain(function.result_names, repeat("")), strict=False)
    ]
    return f"{keyword} @{function.name}({', '.join(params)}) -> ({', '.join(results)}) {{"


def _body(function: Function) -> list[str]:
    lines = []
    for instr in function.body:
        line = f"  {InstrText(instr)}"
        lines.append(f"{line:<{SOURCE_COLUMN}}  {format_source(instr.source)}" if instr.source else line)
    lines.append(f"  return {', '.join(map(str, function.results))}" if function.results else "  return")
    lines.append("}")
    return lines


def to_text(program: Program) -> str:
    """The whole program: the entry with constants and states first, then the other functions."""
    lines = [_signature("program", program.main)]
    for constant in program.constants.values():
        recipe = format_recipe(constant.recipe, constant.type)
        lines.append(f"  const {constant.name}: {constant.type} = {recipe}")
    lines += [f"  state {name}: {t}" for name, t in program.states.items()]
    lines += _body(program.main)
    for name, function in program.functions.items():
        if name != program.entry:
            lines += ["", _signature("function", function), *_body(function)]
    return "\n".join(lines) + "\n"
