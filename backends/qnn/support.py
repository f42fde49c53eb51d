"""Which instructions Qualcomm's compiler takes, learnt from the compiler.

An instruction's *signature* is its op, the kinds, element types and ranks of its operands, and its attributes
but for sizes: that is what the compiler's answers depend on. A signature that is not known is tried: one
small model of that instruction, compiled in a worker process, in one process for all that are asked together;
one that kills the compiler is refused. Answers are kept by compiler: those that ship with forgec in
``known.json``, others in the compile cache.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from forgec.errors import BackendError
from forgec.ir.program import Constant, ConstRef, Function, Instr, Leaf, Literal, Operand, Program, Register
from forgec.ir.types import DType, TensorType

from ..base import Settings
from ..vendor.cache import Cache, key_of
from ..vendor.worker import Job, run
from .process import RESULTS, TASKS

__all__ = ["Support", "signature", "single"]

KNOWN = Path(__file__).with_name("known.json")

_SIZES = {"shape", "start", "stop", "before", "after", "eps", "scale", "softcap", "window", "low", "high"}
"""Attributes whose values do not matter, only whether they are there."""

_BOUND = Settings(timeout_s=120.0)


def signature(instr: Instr) -> str:
    """Equal for instructions that the compiler answers alike."""
    operands = ", ".join(_kind(x) for x in instr.operands)
    attrs = {k: "*" if k in _SIZES else v for k, v in sorted(instr.attrs.items()) if v is not None}
    return f"{instr.op}({operands}) {json.dumps(attrs)}"


def _kind(x: Operand) -> str:
    if x is None:
        return "_"
    if isinstance(x, Literal):
        return type(x.value).__name__
    return f"{'const ' if isinstance(x, ConstRef) else ''}{x.type.dtype.value}/{x.type.rank}"


class Support:
    """Answers of one compiler, by signature: empty text for yes, else the reason for no."""

    def __init__(self, compiler: str, soc: int, store: Cache | None = None) -> None:
        self._compiler, self._soc = compiler, soc
        self._store = Cache() if store is None else store
        self._known = dict(_shipped().get(compiler, {}))

    def reasons(self, instrs: Sequence[Instr]) -> list[str]:
        """Why each instruction is refused, empty where it is not."""
        keys = [signature(instr) for instr in instrs]
        unknown = {key: instr for key, instr in zip(keys, instrs, strict=True) if not self._lookup(key)}
        if unknown:
            found = try_out(list(unknown.values()), self._soc)
            for key, reason in zip(unknown, found, strict=True):
                self.learn(key, reason)
        return [self._known[key] for key in keys]

    def learn(self, key: str, reason: str) -> None:
        """Remember an answer, here and in the cache."""
        self._known[key] = reason
        self._store.put(self._place(key), json.dumps(reason).encode())

    def _lookup(self, key: str) -> bool:
        if key in self._known:
            return True
        kept = self._store.get(self._place(key))
        if kept is not None:
            self._known[key] = str(json.loads(kept))
        return kept is not None

    def _place(self, key: str) -> str:
        return key_of("qnn support", self._compiler, str(self._soc), key)


@cache
def _shipped() -> Mapping[str, Mapping[str, str]]:
    """Answers by compiler and signature."""
    return json.loads(KNOWN.read_text()) if KNOWN.is_file() else {}


def single(instr: Instr) -> Program:
    """A program of one instruction, its constants named in order."""
    params: dict[int, Register] = {}
    constants: dict[str, Constant] = {}
    operands: list[Operand] = []
    for x in instr.operands:
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


def try_out(instrs: Sequence[Instr], soc: int) -> list[str]:
    """Compile each instruction alone, for real; the reason where that fails, empty where it does not."""
    from .emit import emit

    with tempfile.TemporaryDirectory(prefix="forgec-qnn-") as name:
        tasks: list[dict[str, Any]] = []
        for i, instr in enumerate(instrs):
            folder = Path(name) / str(i)
            folder.mkdir()
            emit(single(instr), _filling, folder)
            tasks.append({"model": f"{i}/model.onnx", "soc": soc, "context": None, "provider": {}})
        answers: list[str] = []
        while len(answers) < len(tasks):
            answers += _answers(tasks[len(answers) :], Path(name))
        return answers


def _answers(tasks: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """Answers up to the first task that kills the process, that one included."""
    (folder / TASKS).write_text(json.dumps(tasks))
    results = folder / RESULTS
    results.unlink(missing_ok=True)
    script = Path(__file__).with_name("process.py")
    outcome = run(Job("single instructions", (sys.executable, "-P", str(script)), folder), _BOUND)
    lines = results.read_text().splitlines() if results.is_file() else []
    answers = [_reason(json.loads(line)["error"]) for line in lines]
    if len(answers) < len(tasks):
        if not answers and "task " not in outcome.log:
            raise BackendError(f"Qualcomm's compiler does not start: {outcome.log.strip()[-300:]}")
        answers.append(
            "Qualcomm's compiler dies of it" if not outcome.stopped else "Qualcomm's compiler hangs"
        )
    return answers


def _reason(error: str) -> str:
    if not error:
        return ""
    if "assigned to the default CPU EP" in error or "Unsupported nodes" in error:
        return "Qualcomm's compiler refuses it"
    return f"Qualcomm's compiler fails: {error.splitlines()[0][:200]}"


def _filling(constant: Constant) -> np.ndarray:
    """Values for a constant of a trial: small, different from each other, legal as indices."""
    t: TensorType = constant.type
    if t.dtype is DType.BOOL or t.dtype.is_int:
        return np.zeros(t.shape, t.dtype.numpy)
    return np.resize(np.linspace(0.1, 0.9, 251, dtype=np.float32), t.shape).astype(t.dtype.numpy)
