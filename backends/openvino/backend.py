"""Intel NPUs as a backend: supports, compile, load.

A segment is legalised, emitted as an OpenVINO model in 16-bit floats and compiled by Intel's compiler; its
code keeps the blob, the model and the prediction. Where there is no NPU of the platform, a loaded segment
runs that model on OpenVINO's CPU device: an emulation that rounds weights and inputs to 16 bits but computes
in 32.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal

from forgec.errors import InternalError
from forgec.ir.program import Instr, Program

from ..base import DEFAULTS, Answer, Backend, Constants, Memory, No, RejectedError, Settings, Step, Yes
from ..prediction import Prediction
from ..target import Target
from . import toolchain
from .container import Code
from .cost import estimate_us

__all__ = ["OpenVinoBackend"]

_STATE_OPS = {"read_state", "write_state"}


class OpenVinoBackend(Backend):
    """One platform; nothing of OpenVINO is imported before it is needed."""

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self.precision = target.precision
        self.platform = target.name.removeprefix("intel-npu")

    def available(self) -> str | None:
        return toolchain.missing()

    def runnable(self) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed: pip install 'forgec[openvino]'"
        return None

    @property
    def kind(self) -> Literal["measured", "emulated"]:
        from .runner import npu_platform

        return "measured" if npu_platform() == self.platform else "emulated"

    def supports(self, instr: Instr) -> Answer:
        if instr.op in _STATE_OPS or instr.op == "call":
            return No("op", f"{instr.op} is done by the host", "nothing: the NPU has no memory of its own")
        types = [x.type for x in (*instr.operands, *instr.results) if hasattr(x, "type")]
        if any(t.numel == 0 for t in types):
            return No("size", f"{instr.op} has an operand without elements", "leave out empty tensors")
        return Yes(estimate_us(instr, self.platform))

    def compile(self, segment: Program, constants: Constants, settings: Settings = DEFAULTS) -> bytes:
        return self.compile_all([segment], constants, settings)[0]

    def compile_all(
        self, segments: Sequence[Program], constants: Constants, settings: Settings = DEFAULTS
    ) -> list[bytes]:
        from ..vendor.cache import Cache
        from .compiler import Rejected, build
        from .emission import emitted
        from .prediction import predict

        tools = self._tools()
        models = [
            emitted(segment, constants, f"segment {number} of {len(segments)} for {self.name}")
            for number, segment in enumerate(segments, 1)
        ]
        results = build(models, self.platform, tools, settings, Cache())
        codes = []
        for model, result in zip(models, results, strict=True):
            if isinstance(result, Rejected):
                raise RejectedError(result.reason, model.what)
            prediction = predict(result, self.platform, model.sources)
            codes.append(Code(model.xml, model.weights, result.blob, prediction).to_bytes())
        return codes

    def prediction(self, code: bytes) -> Prediction | None:
        return Code.prediction_of(code) if code else None

    def load(self, segment: Program, code: bytes, memory: Memory) -> list[Step]:
        from .runner import steps

        main = segment.main
        inputs, outputs = [memory(r) for r in main.params], [memory(r) for r in main.results]
        return steps(Code.from_bytes(code), self.platform, inputs, outputs)

    def _tools(self) -> toolchain.Toolchain:
        tools = toolchain.find()
        if tools is None:
            raise InternalError(f"a compile for {self.name} was asked for without {self.name}'s compiler")
        return tools
