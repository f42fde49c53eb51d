"""Intel NPUs as a backend: supports, compile, load.

A segment is legalised, emitted as an OpenVINO model in 16-bit floats and compiled by Intel's compiler; its
code keeps the blob, the model and the prediction. Where there is no NPU of the platform, a loaded segment
runs that model on OpenVINO's CPU device: an emulation that rounds weights and inputs to 16 bits but computes
in 32.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from forgec.errors import BackendError, InternalError
from forgec.ir.program import ConstRef, Instr, Program, StateRef
from forgec.ir.program import Literal as Scalar

from ..base import DEFAULTS, Answer, Backend, Constants, Memory, No, RejectedError, Settings, Step, Yes
from ..prediction import Prediction
from ..target import Target
from ..vendor.attributes import integer
from ..vendor.legalise.even_groups import even
from ..vendor.support import Support, exact
from . import toolchain
from .container import Code, Compiled

if TYPE_CHECKING:
    from .compiler import Built, Model, Rejected
    from .folded import Folded, Folding

__all__ = ["OpenVinoBackend"]

_HOST_OPS = {
    *("aten", "call", "read_state", "write_state", "view_state", "write_rows", "update_rows", "cache_mask")
}
KNOWN = Path(__file__).with_name("known.json")


def by_rule(instr: Instr) -> No | None:
    """Refusals that no compiler has to be asked for."""
    if instr.op in _HOST_OPS or any(isinstance(x, StateRef) for x in instr.operands):
        return No(
            "op",
            f"{instr.op} is done by the host",
            "nothing: the NPU keeps no state and has no PyTorch",
        )
    types = [x.type for x in (*instr.operands, *instr.results) if x is not None and not isinstance(x, Scalar)]
    if any(t.numel == 0 for t in types):
        return No("size", f"{instr.op} has an operand without elements", "leave out empty tensors")
    if instr.op == "expert_linear_q":
        return No("op", f"{instr.op} has no form for the NPU", "weights=fp32 for the experts")
    return _by_form(instr) if instr.op == "linear_q" else None


def _by_form(instr: Instr) -> No | None:
    """Refusals of a product with a compressed weight."""
    codes, scales = instr.operands[1:3]
    if not isinstance(codes, ConstRef) or not isinstance(scales, ConstRef | None):
        return No("op", "linear_q has a weight computed in the program", "keep the weight constant")
    depth, group = codes.type.shape[1], integer(instr, "group")
    if group and not even(depth, group):
        return No("group", f"rows of {depth} do not divide into groups of {group}", "weights=int4:channel")
    return None


class OpenVinoBackend(Backend):
    """One platform; nothing of OpenVINO is imported before it is needed."""

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self.precision = target.precision
        self.calibration = target.name
        self.platform = target.name.removeprefix("intel-npu")
        self._learnt: Support | None = None
        self._origin: OpenVinoBackend | None = None
        self._begun: dict[int, tuple[Folding, list[Built | Rejected]]] = {}
        """What is compiled already of the programs under way, by the identity of their lists of segments."""

    def available(self) -> str | None:
        return toolchain.missing()

    def runnable(self) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed: pip install 'forgec[openvino]'"
        return None

    @property
    def compiler(self) -> str:
        return self._tools().identity

    @property
    def kind(self) -> Literal["measured", "emulated"]:
        from .runner import npu_platform

        return "measured" if npu_platform() == self.platform else "emulated"

    def under(self, settings: Settings) -> OpenVinoBackend:
        """A block that is compiled once begins with its first product, and what stands before it in the first
        one would be a part of its own: a compile more, and a start more in every run."""
        if settings.fold != "on":
            return self
        found = copy(self)
        found._origin, found.begins_with_products = self, True
        return found

    def supports(self, instr: Instr) -> Answer:
        return self.answers([instr])[0]

    def answers(self, instrs: Sequence[Instr]) -> list[Answer]:
        refused = [by_rule(instr) for instr in instrs]
        asked = [instr for instr, no in zip(instrs, refused, strict=True) if no is None]
        reasons = iter(self._support().reasons(asked))
        return [no or self._answer(instr, next(reasons)) for instr, no in zip(instrs, refused, strict=True)]

    def _answer(self, instr: Instr, reason: str) -> Answer:
        if reason:
            return No("compiler", reason, "another form of this operator, or leave it on the CPU")
        return Yes()

    def remarks(self, instrs: Sequence[Instr]) -> list[str]:
        if not any(instr.attrs.get("group") for instr in instrs):
            return []
        return [
            f"weights with scales for groups are slow on {self.name}, in its compiler's model slower than "
            "f16: weights=int8 or int4:channel has one scale for each output"
        ]

    def compile(self, segment: Program, constants: Constants, settings: Settings = DEFAULTS) -> bytes:
        return self.compile_all([segment], constants, settings)[0]

    def compile_all(
        self, segments: Sequence[Program], constants: Constants, settings: Settings = DEFAULTS
    ) -> list[bytes]:
        from .compiler import Rejected
        from .emission import emitted
        from .prediction import predict

        folded = None
        if settings.fold != "off":
            folded = self._folded(segments, constants, settings)
        if folded is not None and folded.codes is not None:
            return [code.to_bytes() for code in folded.codes]
        models = [
            emitted(segment, constants, self.platform, f"segment {number} of {len(segments)} for {self.name}")
            for number, segment in enumerate(segments, 1)
        ]
        results = []
        for segment, model, result in zip(segments, models, self._built(models, {}, settings), strict=True):
            if isinstance(result, Rejected):
                error = self._rejected(segment, constants, result.reason, model.what)
                error.log = result.log
                raise error
            results.append(result)
        predictions = [predict(r, self.platform, m.sources) for r, m in zip(results, models, strict=True)]
        if folded is not None:
            predictions = folded.told(predictions)
        return [
            Code((Compiled(model.xml, model.weights, result.blob),), prediction).to_bytes()
            for model, result, prediction in zip(models, results, predictions, strict=True)
        ]

    def prepared(self) -> AbstractContextManager[None]:
        from .wine import kept_running

        return kept_running(toolchain.find())

    @contextmanager
    def together(
        self, programs: Sequence[tuple[Sequence[Program], Constants]], settings: Settings = DEFAULTS
    ) -> Iterator[None]:
        """Repeated parts of several programs are compiled at the same time, what is common to them once."""
        from .folded import Folding

        foldings: list[Folding] = []
        if len(programs) > 1 and settings.fold != "off":
            found = [Folding.of(*program, settings.fold, self.platform) for program in programs]
            foldings = [folding for folding in found if folding is not None]
        for properties, alike in _by_properties(foldings).items():
            models = [model for folding in alike for model in folding.asked]
            built = iter(self._built(models, dict(properties), settings))
            for folding in alike:
                results = [next(built) for _ in folding.asked]
                self._begun[id(folding.segments)] = folding, results
        try:
            yield
        finally:
            for folding in foldings:
                self._begun.pop(id(folding.segments), None)

    def _folded(self, segments: Sequence[Program], constants: Constants, settings: Settings) -> Folded | None:
        from .folded import fold_all

        if id(segments) in self._begun:
            folding, results = self._begun.pop(id(segments))
            return folding.finished(results)
        compile_ = partial(self._built, settings=settings)
        return fold_all(segments, constants, settings.fold, self.platform, compile_)

    def _built(
        self, models: Sequence[Model], properties: Mapping[str, str], settings: Settings
    ) -> list[Built | Rejected]:
        from ..vendor.cache import Cache
        from .compiler import build

        return build(models, self.platform, self._tools(), settings, Cache(), properties)

    def model_files(self, segment: Program, constants: Constants) -> Mapping[str, bytes]:
        """The OpenVINO model that Intel's compiler is given."""
        from .emission import emitted

        model = emitted(segment, constants, self.platform, "a part of a program")
        return {"model.xml": model.xml, "model.bin": model.weights}

    def prediction(self, code: bytes) -> Prediction | None:
        return Code.prediction_of(code) if code else None

    def vendor_files(self, code: bytes) -> Mapping[str, bytes]:
        """The OpenVINO models and the blobs of Intel's compiler; none for a model that the host runs."""
        files = Code.from_bytes(code).files if code else {}
        return {name: data for name, data in files.items() if data or not name.endswith(".blob")}

    def load(self, segment: Program, code: bytes, memory: Memory) -> list[Step]:
        from .runner import steps

        return steps(Code.from_bytes(code), self.platform, segment, memory)

    def _rejected(self, segment: Program, constants: Constants, reason: str, what: str) -> BackendError:
        """The error for a refused segment; its culprit, if there is one, is not asked for again."""
        from .trial import culprit

        found = culprit(segment, constants, self.platform, self._tools())
        if found is None:
            return BackendError(reason, what)
        self._support().learn(exact(found), reason)
        return RejectedError(f"{found.op} goes to the CPU: {reason}", str(found.source or what))

    def _support(self) -> Support:
        if self._origin is not None:
            return self._origin._support()
        if self._learnt is None:
            from .trial import try_out

            tools = self._tools()
            ask = partial(try_out, platform=self.platform, toolchain=tools)
            self._learnt = Support(self.name, tools.identity, ask, KNOWN)
        return self._learnt

    def _tools(self) -> toolchain.Toolchain:
        tools = toolchain.find()
        if tools is None:
            raise InternalError(f"a compile for {self.name} was asked for without {self.name}'s compiler")
        return tools


def _by_properties(foldings: Sequence[Folding]) -> dict[tuple[tuple[str, str], ...], list[Folding]]:
    found: dict[tuple[tuple[str, str], ...], list[Folding]] = {}
    for folding in foldings:
        found.setdefault(tuple(sorted(folding.properties.items())), []).append(folding)
    return found
