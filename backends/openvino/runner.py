"""Running a compiled segment: on the NPU where there is one that fits, else its model on OpenVINO's CPU
device.

Inputs are converted to the device's element types on their way in, and results back; the memory of both is
bound once. A part without a blob, a copy between two others, runs on OpenVINO's CPU device anywhere. What has
the device's type already, as a cache has, is read where it lies.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import openvino as ov

from forgec.errors import ArtifactError, BackendError
from forgec.ir.program import Program, Register

from ..base import Memory, Step
from ..vendor.calls import from_bytes, weights_of
from ..vendor.parts import sources_of_copies
from .container import Code, Compiled
from .types import converted, packed_tensor

__all__ = ["EMULATION", "npu_platform", "steps"]

EMULATION = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""Options of the CPU device, which would else quantise what it multiplies with compressed weights."""


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


def steps(code: Code, platform: str, segment: Program, memory: Memory) -> list[Step]:
    """One step that runs the segment on what is in ``memory``."""
    if code.calls:
        return [_in_turn(code, platform, segment, memory)]
    main = segment.main
    request = _compiled(code.parts[0], platform).create_infer_request()
    places = []
    for index, register in enumerate(main.params):
        tensor = _shared(request.get_input_tensor(index), memory(register))
        if tensor is not None:
            request.set_input_tensor(index, tensor)
        places.append(request.get_input_tensor(index).data)
    results = [request.get_output_tensor(i).data for i in range(len(main.results))]
    return [_step([request], _pairs(main.params, places, memory), _pairs(main.results, results, memory))]


def _in_turn(code: Code, platform: str, segment: Program, memory: Memory) -> Step:
    """Parts called one after the other; a register between two is one tensor for both, and weights are
    converted to the device's type once."""
    models = [_compiled(part, platform) for part in code.parts]
    main = segment.main
    given = {r.id: memory(r) for r in main.params}
    tensors: dict[int, ov.Tensor] = {}
    requests = []

    def tensor_of(port: Any, number: int) -> ov.Tensor:
        if number not in tensors:
            own = _tensor(port)
            shared = _shared(own, given[number]) if number in given else None
            tensors[number] = own if shared is None else shared
        return tensors[number]

    for call in from_bytes(code.calls, len(models)):
        request = models[call.part].create_infer_request()
        weights = weights_of(call, segment, memory)
        if len(models[call.part].inputs) != len(call.inputs) + len(weights):
            raise ArtifactError(f"part {call.part} of folded code does not take what its call gives")
        for port, number in zip(models[call.part].inputs, call.inputs, strict=False):
            request.set_tensor(port, tensor_of(port, number))
        for port, value in zip(models[call.part].inputs[len(call.inputs) :], weights, strict=True):
            tensor = _weight(port, value)
            request.set_tensor(port, tensor)
        for port, number in zip(models[call.part].outputs, call.outputs, strict=True):
            request.set_tensor(port, tensor_of(port, number))
        requests.append(request)
    copies = sources_of_copies(segment)
    read = [r for r in main.params if r.id in tensors]
    inputs = _pairs(read, [tensors[r.id].data for r in read], memory)
    outputs = []
    for r in main.results:
        source = copies.get(r.id, r)
        if source in main.params:  # no part has it: it is kept from before results are written
            held = np.empty_like(given[source.id])
            inputs.append((given[source.id], held))
        else:
            held = tensors[source.id].data
        outputs.append((memory(r), held))
    return _step(requests, inputs, outputs)


def _tensor(port: Any) -> ov.Tensor:
    return ov.Tensor(port.get_element_type(), port.get_shape())


def _shared(like: ov.Tensor, array: np.ndarray) -> ov.Tensor | None:
    """A tensor on the array's own memory, if that is what the device takes."""
    place = like.data
    fits = array.dtype == place.dtype and array.shape == place.shape and array.flags.c_contiguous
    return ov.Tensor(array, shared_memory=True) if fits and array.ndim and array.size else None


def _weight(port: Any, value: np.ndarray) -> ov.Tensor:
    if port.get_element_type() == ov.Type.i4:
        return packed_tensor(value, port.get_shape())
    tensor = _tensor(port)
    np.copyto(tensor.data, converted(value, tensor.data.dtype).reshape(tensor.data.shape))
    return tensor


Pairs = list[tuple[np.ndarray, np.ndarray]]
"""Memory of the program, memory of the device."""


def _pairs(registers: Sequence[Register], arrays: Sequence[np.ndarray], memory: Memory) -> Pairs:
    return [(memory(r), array) for r, array in zip(registers, arrays, strict=True)]


def _step(requests: Sequence[Any], inputs: Pairs, outputs: Pairs) -> Step:
    moved = [(value, place) for value, place in inputs if not np.may_share_memory(value, place)]

    def step() -> None:
        for value, place in moved:
            np.copyto(place, converted(value, place.dtype).reshape(place.shape))
        for request in requests:
            request.infer()
        for value, result in outputs:
            np.copyto(value, result.reshape(value.shape), casting="unsafe")

    return step


def _compiled(code: Compiled, platform: str) -> Any:
    core = _core()
    try:
        if code.blob and npu_platform() == platform:
            try:
                return core.import_model(code.blob, "NPU")
            except RuntimeError as error:
                warnings.warn(
                    f"the NPU's driver does not take the blob ({str(error).splitlines()[0]}); "
                    "the segment is compiled again from its OpenVINO model",
                    stacklevel=2,
                )
                return core.compile_model(_model(code), "NPU")
        return core.compile_model(_model(code), "CPU", EMULATION)
    except RuntimeError as error:
        raise BackendError(f"OpenVINO cannot load the segment: {str(error).strip()}") from error


def _model(code: Compiled) -> ov.Model:
    weights = ov.Tensor(np.frombuffer(code.weights, np.uint8).copy())
    return _core().read_model(code.xml, weights)
