"""Qualcomm's NPUs as a backend: supports, compile, load.

A segment is legalised, emitted as an ONNX model in f16 and compiled to a context binary, twice: for its chip,
and for the chip whose performance model predicts its time. On a machine without the NPU a loaded segment
runs in the vendor's x86 emulator, which computes what the device does in its own time.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal

from forgec.ir.program import Instr, Program
from forgec.ir.types import DType

from ..base import DEFAULTS, Answer, Backend, Constants, Memory, No, RejectedError, Settings, Step, Yes
from ..prediction import Prediction
from ..target import Target
from . import compiler, container, session
from .cost import estimate_us
from .prediction import from_dict
from .socs import CHIPS
from .support import Support, signature

__all__ = ["QnnBackend", "by_rule"]

_MAX_RANK = 5


class QnnBackend(Backend):
    """One architecture; nothing of ONNX Runtime is imported before it is needed."""

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self.precision = target.precision
        self.chip = CHIPS[target.name]
        self._support: Support | None = None

    def available(self) -> str | None:
        return compiler.missing()

    def runnable(self) -> str | None:
        for module in ("onnxruntime", "onnxruntime_qnn"):
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed: pip install 'forgec[qnn]'"
        return None

    @property
    def kind(self) -> Literal["measured", "emulated"]:
        return "emulated" if session.emulated() else "measured"

    def supports(self, instr: Instr) -> Answer:
        return self.answers([instr])[0]

    def answers(self, instrs: Sequence[Instr]) -> list[Answer]:
        answers: list[Answer | None] = [by_rule(instr) for instr in instrs]
        asked = [instr for instr, answer in zip(instrs, answers, strict=True) if answer is None]
        reasons = iter(self._learnt().reasons(asked) if asked else ())
        return [
            answer or self._answer(instr, next(reasons))
            for instr, answer in zip(instrs, answers, strict=True)
        ]

    def _answer(self, instr: Instr, reason: str) -> Answer:
        if reason:
            return No("vendor", f"{instr.op}: {reason}", "write it with other operators")
        return Yes(estimate_us(instr, self.name))

    def _learnt(self) -> Support:
        if self._support is None:
            self._support = Support(compiler.compiler_id(), self.chip.proxy)
        return self._support

    def compile(self, segment: Program, constants: Constants, settings: Settings = DEFAULTS) -> bytes:
        return self.compile_all([segment], constants, settings)[0]

    def compile_all(
        self, segments: Sequence[Program], constants: Constants, settings: Settings = DEFAULTS
    ) -> list[bytes]:
        try:
            return compiler.compile_segments(segments, constants, settings, self.chip)
        except compiler.Refused as refused:
            for instr in refused.instrs:
                self._learnt().learn(signature(instr), "Qualcomm's compiler refuses it in its place")
            raise RejectedError(refused.what, refused.where, refused.hint) from refused

    def prediction(self, code: bytes) -> Prediction | None:
        stored = container.unpack(code, files=False).prediction if code else None
        return None if stored is None else from_dict(stored, self.chip.proxy_name)

    def load(self, segment: Program, code: bytes, memory: Memory) -> list[Step]:
        main = segment.main
        inputs, outputs = [memory(r) for r in main.params], [memory(r) for r in main.results]
        return session.steps(container.unpack(code), inputs, outputs, f"a segment for {self.name}")


def by_rule(instr: Instr) -> No | None:
    """Refusals that need no compiler; None leaves the answer to it."""
    from .emit import EMITTERS

    if instr.op in ("read_state", "write_state", "call"):
        return No("op", f"{instr.op} is done by the host", "nothing: the NPU has no memory of its own")
    if instr.op not in EMITTERS:
        return No("op", f"{instr.op} has no form in ONNX that Hexagon runs", "write it with other operators")
    types = [x.type for x in (*instr.operands, *instr.results) if hasattr(x, "type")]
    for t in types:
        if t.numel == 0:
            return No("size", f"{instr.op} has an operand without elements", "leave out empty tensors")
        if t.rank > _MAX_RANK:
            return No("rank", f"{t} has {t.rank} axes, Hexagon takes {_MAX_RANK}", "put axes together")
        if t.dtype is DType.F64:
            return No("dtype", f"{instr.op} computes in f64, Hexagon in f16", "compute in f32")
    return None
