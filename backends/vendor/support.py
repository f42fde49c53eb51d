"""Which instructions a vendor's compiler takes, learnt from the compiler itself.

An instruction's *signature* is its op, the kinds, element types and ranks of its operands, and its attributes
but for sizes: that is what compilers' answers depend on. A signature that is not known is tried: the smallest
program with that instruction is compiled, all that are asked together in one process. Answers are kept by
target and compiler: those that ship with forgec as data, others in the compile cache. What may depend on
sizes is kept with them: a compiler that died or hung on a trial, and a refusal that shows only in a larger
segment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from forgec.ir.program import Constant, ConstRef, Function, Instr, Leaf, Literal, Operand, Program, Register

from .cache import Cache, key_of

__all__ = ["Ask", "Support", "Trial", "exact", "signature", "single"]


class Trial(NamedTuple):
    """What came of an instruction tried alone: the reason for a refusal, empty if it is taken.

    ``sized`` says that this holds for the instruction's sizes only: the compiler died, hung, or gave no
    reason.
    """

    reason: str
    sized: bool = False


Ask = Callable[[Sequence[Instr]], Sequence[Trial]]
"""Tries instructions, each alone."""

_SIZES = {
    "shape",
    "start",
    "stop",
    "before",
    "after",
    "eps",
    "scale",
    "softcap",
    "window",
    "low",
    "high",
    "group",
}
"""Attributes whose values do not matter, only whether they are there."""


def signature(instr: Instr) -> str:
    """Equal for instructions that a compiler answers alike."""
    operands = ", ".join(_kind(x) for x in instr.operands)
    attrs = {k: "*" if k in _SIZES else v for k, v in _told(instr).items() if v is not None}
    return f"{instr.op}({operands}) {json.dumps(attrs)}{_form(instr)}"


def _form(instr: Instr) -> str:
    """What of attention's sizes decides on the form in which it is emitted, and so on the answer."""
    if instr.op != "attention":
        return ""
    query, key, mask = (getattr(instr.operands[i], "type", None) for i in (0, 1, 3))
    if query is None or key is None:
        return ""
    form = " one row" if query.shape[2] == 1 else " rows"
    if query.shape[1] != key.shape[1]:
        form += ", grouped heads"
    if mask is not None:
        form += ", mask " + "x".join("1" if size == 1 else "n" for size in mask.shape)
    return form


def exact(instr: Instr) -> str:
    """The signature with all sizes."""
    operands = ", ".join(
        _kind(x) if x is None or isinstance(x, Literal) else f"{_kind(x)} {x.type}" for x in instr.operands
    )
    return f"{instr.op}({operands}) {json.dumps(_told(instr))}"


def _told(instr: Instr) -> dict[str, Any]:
    """The attributes, without leave to round, of which vendors' compilers hear nothing."""
    return {k: v for k, v in sorted(instr.attrs.items()) if k != "bf16"}


def _kind(x: Operand) -> str:
    if x is None:
        return "_"
    if isinstance(x, Literal):
        return type(x.value).__name__
    return f"{'const ' if isinstance(x, ConstRef) else ''}{x.type.dtype.value}/{x.type.rank}"


class Support:
    """Answers for one target by one compiler: empty text for yes, else the reason for no.

    ``shipped`` is a JSON file of answers by target, compiler and signature.
    """

    def __init__(
        self, target: str, compiler: str, ask: Ask, shipped: Path, store: Cache | None = None
    ) -> None:
        self._place = ("support", target, compiler)
        self._ask = ask
        self._store = Cache() if store is None else store
        self._known = dict(_shipped(shipped).get(target, {}).get(compiler, {}))

    def reasons(self, instrs: Sequence[Instr]) -> list[str]:
        """Why each instruction is refused, empty where it is not."""
        while True:
            answers = [self._answer(instr) for instr in instrs]
            unknown = {signature(i): i for i, known in zip(instrs, answers, strict=True) if known is None}
            if not unknown:
                return [answer or "" for answer in answers]
            trials = self._ask(list(unknown.values()))
            for (key, instr), trial in zip(unknown.items(), trials, strict=True):
                self.learn(exact(instr) if trial.sized else key, trial.reason)

    def _answer(self, instr: Instr) -> str | None:
        return self._find(exact(instr)) or self._find(signature(instr))

    def learn(self, key: str, reason: str, keep: bool = True) -> None:
        """Remember an answer, here and in the cache; one of no use elsewhere is not to ``keep``."""
        self._known[key] = reason
        if keep:
            self._store.put(key_of(*self._place, key), json.dumps(reason).encode())

    def _find(self, key: str) -> str | None:
        if key not in self._known:
            kept = self._store.get(key_of(*self._place, key))
            if kept is None:
                return None
            self._known[key] = str(json.loads(kept))
        return self._known[key]


@cache
def _shipped(path: Path) -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    return json.loads(path.read_text()) if path.is_file() else {}


def single(instr: Instr) -> Program:
    """A program of one instruction, its constants named in order.

    If all that it reads is constant, the first constant becomes an input: some take no model without.
    """
    computed = any(isinstance(x, Register) for x in instr.operands)
    params: dict[int, Register] = {}
    constants: dict[str, Constant] = {}
    operands: list[Operand] = []
    for x in instr.operands:
        if isinstance(x, ConstRef) and not computed:
            computed, x = True, Register(-1, x.type)
        if isinstance(x, ConstRef):
            name = f"c{len(constants)}"
            constants[name] = Constant(name, x.type, Leaf(name, x.type))
            operands.append(ConstRef(name, x.type))
        else:
            if isinstance(x, Register):
                params[x.id] = x
            operands.append(x)
    body = [Instr(instr.op, tuple(operands), instr.results, dict(instr.attrs), instr.source)]
    names = tuple(f"x{i}" for i in range(len(params)))
    outputs = tuple(f"y{i}" for i in range(len(instr.results)))
    main = Function("main", tuple(params.values()), names, body, instr.results, outputs)
    return Program("main", {"main": main}, constants)
