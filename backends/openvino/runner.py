"""Running a compiled segment: on the NPU where there is one that fits, else its model on OpenVINO's CPU
device.

Inputs are converted to the device's element types on their way in, and results back; the memory of both is
bound once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import openvino as ov

from forgec.errors import BackendError

from ..base import Step
from .container import Code
from .types import converted

__all__ = ["npu_platform", "steps"]


@cache
def _core() -> ov.Core:
    return ov.Core()


@cache
def npu_platform() -> str | None:
    """The platform of this machine's NPU, as in ``4000``; None if there is none."""
    core = _core()
    if "NPU" not in core.available_devices:
        return None
    try:
        return str(core.get_property("NPU", "DEVICE_ARCHITECTURE"))
    except RuntimeError:
        return None


def steps(
    code: Code, platform: str, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> list[Step]:
    """One step that runs the segment from ``inputs`` to ``outputs``."""
    request = _compiled(code, platform).create_infer_request()
    places = [request.get_input_tensor(i).data for i in range(len(inputs))]
    results = [request.get_output_tensor(i).data for i in range(len(outputs))]

    def step() -> None:
        for place, value in zip(places, inputs, strict=True):
            np.copyto(place, converted(value, place.dtype).reshape(place.shape))
        request.infer()
        for value, result in zip(outputs, results, strict=True):
            np.copyto(value, result.reshape(value.shape), casting="unsafe")

    return [step]


def _compiled(code: Code, platform: str) -> Any:
    core = _core()
    try:
        if npu_platform() == platform:
            try:
                return core.import_model(code.blob, "NPU")
            except RuntimeError as error:
                warnings.warn(
                    f"the NPU's driver does not take the blob ({str(error).splitlines()[0]}); "
                    "the segment is compiled again from its OpenVINO model",
                    stacklevel=2,
                )
                return core.compile_model(_model(code), "NPU")
        return core.compile_model(_model(code), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise BackendError(f"OpenVINO cannot load the segment: {str(error).strip()}") from error


def _model(code: Code) -> ov.Model:
    weights = ov.Tensor(np.frombuffer(code.weights, np.uint8).copy())
    return _core().read_model(code.xml, weights)
