"""Qualcomm's NPUs as a backend: supports, compile, load.

A segment is legalised, emitted as an ONNX model in f16 and compiled to a context binary, twice: for its chip,
and for the chip whose performance model predicts its time. On a machine without the NPU a loaded segment
runs in the vendor's x86 emulator, which computes what the device does in its own time.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Literal

from forgec.errors import BackendError
from forgec.ir.op import get
from forgec.ir.program import ConstRef, Instr, Program, Register, StateRef
from forgec.ir.program import Literal as Scalar
from forgec.ir.types import DType

from ..base import DEFAULTS, Answer, Backend, Constants, Memory, No, RejectedError, Settings, Step, Yes
from ..prediction import Prediction, Repeat
from ..target import Target
from ..vendor.support import Support, exact
from . import compiler, container, session
from .edge import MAX_RANK
from .folded import COMPRESSED, compile_folded, fold_prices
from .prediction import from_dict
from .socs import CHIPS
from .translate import readers_of_views
from .trial import try_out

__all__ = ["FAMILY", "KNOWN", "QnnBackend", "by_rule"]

FAMILY = "hexagon"
"""What answers of the compiler are kept under: they do not differ between the chips."""

KNOWN = Path(__file__).with_name("known.json")

_LOOK_UPS = ("embedding", "embedding_q", "gather")
_COMPRESSED = {"linear_q": (1, 2), "embedding_q": (0, 2)}
"""By op: the operands that are decompressed at compile time, and so have to be constant."""


class QnnBackend(Backend):
    """One architecture; nothing of ONNX Runtime is imported before it is needed.

    Where folding is asked for, look-ups are the host's: a table is a constant of the code that reads it,
    which would be as large as the table, and compiled again with every other set of weights.
    """

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self.precision = target.precision
        self.chip = CHIPS[target.name]
        self.calibration = self.chip.calibration
        self._support: Support | None = None
        self._origin: QnnBackend | None = None

    def available(self) -> str | None:
        return compiler.missing()

    def runnable(self) -> str | None:
        for module in ("onnxruntime", "onnxruntime_qnn"):
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed: pip install 'forgec[qnn]'"
        return None

    @property
    def compiler(self) -> str:
        return compiler.compiler_id()

    @property
    def kind(self) -> Literal["measured", "emulated"]:
        return "emulated" if session.emulated() else "measured"

    def under(self, settings: Settings) -> QnnBackend:
        if settings.fold != "on":
            return self
        found = copy(self)
        found._origin = self
        return found

    def supports(self, instr: Instr) -> Answer:
        return self.answers([instr])[0]

    def answers(self, instrs: Sequence[Instr]) -> list[Answer]:
        answers: list[Answer | None] = [by_rule(instr) or self._by_fold(instr) for instr in instrs]
        asked = [instr for instr, answer in zip(instrs, answers, strict=True) if answer is None]
        reasons = iter(self._learnt().reasons(asked) if asked else ())
        return [
            answer or self._answer(instr, next(reasons))
            for instr, answer in zip(instrs, answers, strict=True)
        ]

    def _answer(self, instr: Instr, reason: str) -> Answer:
        if reason:
            return No("vendor", f"{instr.op}: {reason}", "write it with other operators")
        return Yes()

    def _by_fold(self, instr: Instr) -> No | None:
        if not self._folding or instr.op not in _LOOK_UPS:
            return None
        table, ids = instr.operands[:2]
        if not isinstance(table, ConstRef) or not isinstance(ids, Register):
            return None
        reason = f"with fold=on a table of {table.type} would be compiled anew with every set of weights"
        return No("fold", reason, "compile with fold=off, and it is in the code")

    @property
    def _folding(self) -> bool:
        return self._origin is not None

    def _learnt(self) -> Support:
        if self._origin is not None:  # what one learns both know
            return self._origin._learnt()
        if self._support is None:
            ask = partial(try_out, soc=self.chip.proxy)
            self._support = Support(FAMILY, compiler.compiler_id(), ask, KNOWN)
        return self._support

    def remarks(self, instrs: Sequence[Instr]) -> list[str]:
        from .emit.blocks import by_row, decompressed

        said = []
        weights = {x for instr in instrs if (x := decompressed(instr)) is not None}
        if weights:
            size = sum(x.type.nbytes for x in weights) / 1e6
            said.append(
                f"{len(weights)} compressed weights ({size:.1f} MB) are f16 on {self.name}, which takes "
                "codes in matrix products only, with rows that are a multiple of 16"
            )
        if self._folding and any(instr.op == "linear_q" and not by_row(instr) for instr in instrs):
            said.append(f"what repeats with such weights is not folded on {self.name}: {COMPRESSED}")
        return said

    def compile(self, segment: Program, constants: Constants, settings: Settings = DEFAULTS) -> bytes:
        return self.compile_all([segment], constants, settings)[0]

    def compile_all(
        self, segments: Sequence[Program], constants: Constants, settings: Settings = DEFAULTS
    ) -> list[bytes]:
        told: list[Repeat] = []
        if settings.fold == "on":
            folded, told = compile_folded(segments, constants, settings, self.chip)
            if folded is not None:
                return folded
        try:
            codes = compiler.compile_segments(segments, constants, settings, self.chip)
            lost = [repeat.reason for repeat in told if repeat.reason != COMPRESSED]
            if lost and not settings.predict:  # a prediction would say it, and what is compressed a remark
                raise BackendError(f"nothing is folded: {lost[0]}", hint="compile with fold=off")
            return [container.with_repeats(codes[0], told), *codes[1:]] if told else codes
        except compiler.Refused as refused:
            placed = [instr for instr in refused.instrs if not get(instr.op).view]
            readers = readers_of_views(segments, refused.instrs)
            if not placed and not readers:  # nothing that planning again could put elsewhere
                raise
            for instr in readers:
                self._learnt().learn(
                    exact(instr), "Qualcomm's compiler refuses a view that it reads", keep=False
                )
            for instr in placed:
                self._learnt().learn(exact(instr), "Qualcomm's compiler refuses it in its place")
            rejected = RejectedError(refused.what, refused.where, refused.hint)
            rejected.log = refused.log
            raise rejected from refused

    def model_files(self, segment: Program, constants: Constants) -> Mapping[str, bytes]:
        """The ONNX model that Qualcomm's compiler is given."""
        return compiler.model_files(segment, constants)

    def fold_prices(
        self, segments: Sequence[Program], constants: Constants, settings: Settings = DEFAULTS
    ) -> list[Repeat]:
        return fold_prices(segments, constants, settings, self.chip)

    def prediction(self, code: bytes) -> Prediction | None:
        if container.is_folded(code):
            found = container.unpack_folded(code).prediction
            return None if found is None else Prediction.from_dict(found)
        stored = container.unpack(code, files=False).prediction if code else None
        return None if stored is None else from_dict(stored, self.chip.proxy_name)

    def unpredicted(self, code: bytes) -> str:
        if not code:
            return ""
        read = (
            container.unpack_folded if container.is_folded(code) else partial(container.unpack, files=False)
        )
        return read(code).unpredicted

    def vendor_files(self, code: bytes) -> Mapping[str, bytes]:
        """An ONNX model with one ``EPContext`` node, and the context binary beside it; of folded code those
        of every part, and how they are called."""
        if not container.is_folded(code):
            return container.unpack(code).files if code else {}
        folded = container.unpack_folded(code)
        parts = [container.unpack(part).files for part in folded.parts]
        files = {f"part{i}-{name}": data for i, part in enumerate(parts) for name, data in part.items()}
        return {**files, "calls.txt": folded.calls}

    def load(self, segment: Program, code: bytes, memory: Memory) -> list[Step]:
        if container.is_folded(code):
            folded = container.unpack_folded(code)
            return session.folded_steps(folded, segment, memory, f"a segment for {self.name}")
        main = segment.main
        inputs, outputs = [memory(r) for r in main.params], [memory(r) for r in main.results]
        return session.steps(container.unpack(code), inputs, outputs, f"a segment for {self.name}")


def by_rule(instr: Instr) -> No | None:
    """Refusals that need no compiler; None leaves the answer to it."""
    from .emit import EMITTERS
    from .emit.pooling import refusal

    if instr.op == "call" or any(isinstance(x, StateRef) for x in instr.operands):
        return No("op", f"{instr.op} is done by the host", "nothing: the NPU has no memory of its own")
    if instr.op not in EMITTERS:
        return No("op", f"{instr.op} has no form in ONNX that Hexagon runs", "write it with other operators")
    packed = [instr.operands[i] for i in _COMPRESSED.get(instr.op, ())]
    if any(isinstance(x, Register) for x in packed):
        return No("op", f"{instr.op} has a weight computed in the program", "keep the weight constant")
    types = [x.type for x in (*instr.operands, *instr.results) if x is not None and not isinstance(x, Scalar)]
    for t in types:
        if t.numel == 0:
            return No("size", f"{instr.op} has an operand without elements", "leave out empty tensors")
        if t.rank > MAX_RANK:
            return No("rank", f"{t} has {t.rank} axes, Hexagon takes {MAX_RANK}", "put axes together")
        if t.dtype is DType.F64:
            return No("dtype", f"{instr.op} computes in f64, Hexagon in f16", "compute in f32")
    reason = refusal(instr) if instr.op == "pool" else None
    return None if reason is None else No("op", f"{instr.op}: {reason}", "pool without padding and gaps")
