"""OpenVINO on the CPU, from a model's ONNX file or, as documented for PyTorch 2, from ``torch.export``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Compiled, Stages, Tool, by_name, file_of

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["OpenVinoInt8Tool", "OpenVinoTool"]


_CALIBRATION_RUNS = 8
"""Inputs that post-training quantisation is shown: the example's, with other values."""


class OpenVinoTool(Tool):
    """``torch.export.export`` + ``openvino.convert_model`` + ``compile_model`` in f32, tuned for latency."""

    def prepared(self, model: Any, inputs: Mapping[str, Tensor], stages: Stages) -> Any:
        """The converted model as it is compiled."""
        return model

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
        if (source := file_of(module)) is not None:
            path, shapes = source
            with stages.stage("convert_model"):
                model = openvino.convert_model(path)
                model.reshape({name: list(shape) for name, shape in shapes.items()})
        else:
            with stages.stage("torch.export"), torch.no_grad():
                exported = torch.export.export(module, (), dict(inputs))
            with stages.stage("convert_model"), torch.no_grad():
                model = openvino.convert_model(exported)
        model = self.prepared(model, inputs, stages)
        with stages.stage("compile_model"):
            compiled = openvino.Core().compile_model(model, "CPU", settings)
        return _Program(compiled, stages.ms)


class OpenVinoInt8Tool(OpenVinoTool):
    """The same after NNCF's post-training quantisation of a transformer: int8 weights and activations."""

    def missing(self) -> str | None:
        return super().missing() or (None if find_spec("nncf") else "nncf is not installed")

    def prepared(self, model: Any, inputs: Mapping[str, Tensor], stages: Stages) -> Any:
        import nncf

        names = [sorted(port.get_names()) for port in model.inputs]
        samples = [by_name(names, _redrawn(inputs, seed)) for seed in range(_CALIBRATION_RUNS)]
        with stages.stage("nncf.quantize"):
            return nncf.quantize(
                model,
                nncf.Dataset(samples),
                subset_size=_CALIBRATION_RUNS,
                model_type=nncf.ModelType.TRANSFORMER,
            )


def _redrawn(inputs: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Inputs with their values in another order: token ids stay token ids, masks of ones stay ones."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {
        name: x.reshape(-1)[torch.randperm(x.numel(), generator=generator)].reshape(x.shape)
        for name, x in inputs.items()
    }


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
