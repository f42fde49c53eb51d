"""OpenVINO on the CPU, from ``torch.export``: the documented way for PyTorch 2 models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Compiled, Stages, Tool, by_name

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["OpenVinoTool"]


class OpenVinoTool(Tool):
    """``torch.export.export`` + ``openvino.convert_model`` + ``compile_model`` in f32, tuned for latency."""

    def missing(self) -> str | None:
        return None if find_spec("openvino") else "openvino is not installed"

    def compile(self, module: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> Compiled:
        import openvino
        import torch

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        stages = Stages()
        with torch.no_grad():
            with stages.stage("torch.export"):
                exported = torch.export.export(module, (), dict(inputs))
            with stages.stage("convert_model"):
                model = openvino.convert_model(exported)
        with stages.stage("compile_model"):
            compiled = openvino.Core().compile_model(model, "CPU", settings)
        return _Program(compiled, stages.ms)


class _Program(Compiled):
    def __init__(self, compiled: Any, stages: Mapping[str, float]) -> None:
        self._compiled = compiled
        self.stages = stages

    def bind(self, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
        request = self._compiled.create_infer_request()
        arrays = by_name([sorted(port.get_names()) for port in self._compiled.inputs], inputs)
        return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)

    def arrays(self, outputs: Any) -> list[np.ndarray]:
        return [outputs[port] for port in self._compiled.outputs]
