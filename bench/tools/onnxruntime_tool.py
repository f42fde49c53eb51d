"""ONNX Runtime on the CPU, from a model's ONNX file or PyTorch's own exporter."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Compiled, Stages, Tool, by_name, file_of

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["OnnxRuntimeInt8Tool", "OnnxRuntimeTool"]


class OnnxRuntimeTool(Tool):
    """``torch.onnx.export(dynamo=True)`` + ``save`` + ``InferenceSession`` with all graph optimisations.

    The model goes through a file, as models over 2 GiB must; the worker's folder for it is in memory. An ONNX
    file is opened as it is.
    """

    def prepared(self, path: Path, folder: Path, stages: Stages) -> Path:
        """The file that the session opens; ``folder`` is for new ones."""
        return path

    def missing(self) -> str | None:
        absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]
        return f"{', '.join(absent)} not installed" if absent else None

    def compile(self, module: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> Compiled:
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        stages = Stages()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            if (source := file_of(module)) is not None:
                path, _ = source
            else:
                with stages.stage("torch.onnx.export"), torch.no_grad():
                    program = torch.onnx.export(module, (), kwargs=dict(inputs), dynamo=True, verbose=False)
                assert program is not None
                with stages.stage("save"):
                    program.save(path, external_data=True)
            path = self.prepared(path, Path(folder), stages)
            with stages.stage("session"):
                session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return _Program(session, stages.ms)


class OnnxRuntimeInt8Tool(OnnxRuntimeTool):
    """The same after its dynamic quantisation: int8 weights per channel, activations at run time."""

    def prepared(self, path: Path, folder: Path, stages: Stages) -> Path:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantised = folder / "int8.onnx"
        with stages.stage("quantize_dynamic"):
            quantize_dynamic(
                path, quantised, weight_type=QuantType.QInt8, per_channel=True, use_external_data_format=True
            )
        return quantised


class _Program(Compiled):
    def __init__(self, session: Any, stages: Mapping[str, float]) -> None:
        self._session = session
        self.stages = stages

    def bind(self, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
        names = [node.name for node in self._session.get_inputs()]
        feeds = dict(zip(names, by_name([[name] for name in names], inputs), strict=True))
        session = self._session
        return lambda: session.run(None, feeds)

    def arrays(self, outputs: Any) -> list[np.ndarray]:
        return list(outputs)
