"""ATen operators by name: written down when a model is lowered, run by PyTorch wherever that is installed.

An operator is named with its overload. Its arguments are JSON: ``{"tensor": 0}`` is the first operand,
``{"dtype": "float32"}``, ``{"layout": "strided"}``, ``{"memory_format": "contiguous_format"}`` and
``{"device": "cpu"}`` are PyTorch's own values. Files from outside name operators too: only those run that
change nothing and compute something from tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from .errors import UnsupportedOpError
from .tensors import as_numpy

__all__ = ["encode", "operator", "run"]

_KINDS = {
    torch.dtype: "dtype",
    torch.layout: "layout",
    torch.memory_format: "memory_format",
    torch.device: "device",
}


@cache
def operator(name: str) -> Callable[..., Any]:
    """``aten.cumprod.default``, say; ``UnsupportedOpError`` if there is none or it is not pure."""
    namespace, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    found = getattr(getattr(torch.ops.aten, packet, None), overload, None) if namespace == "aten" else None
    if not isinstance(found, torch._ops.OpOverload):
        raise UnsupportedOpError(
            f"PyTorch {torch.__version__} has no operator {name}", hint="run with the PyTorch that compiled"
        )
    computes = any("Tensor" in str(argument.type) for argument in found._schema.arguments)
    if found._schema.is_mutable or not computes or torch.Tag.nondeterministic_seeded in found.tags:
        raise UnsupportedOpError(
            f"{name} does more than compute results from tensors", hint="rewrite that line of the model"
        )
    return found


def encode(
    args: Sequence[Any], kwargs: Mapping[str, Any], is_tensor: Callable[[Any], bool]
) -> tuple[str, list[Any]] | None:
    """A call's arguments as JSON and its tensors in order; None if something has no form there."""
    tensors: list[Any] = []

    def form(value: Any) -> Any:
        if is_tensor(value):
            tensors.append(value)
            return {"tensor": len(tensors) - 1}
        if isinstance(value, list | tuple):
            return [form(x) for x in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        return {_KINDS[type(value)]: str(value).removeprefix("torch.")}

    try:
        document = {"args": form(args), "kwargs": {key: form(value) for key, value in kwargs.items()}}
    except KeyError:
        return None
    return json.dumps(document), tensors


def run(name: str, arguments: str, operands: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The results of an operator on the CPU."""

    def value(x: Any) -> Any:
        if isinstance(x, list):
            return [value(y) for y in x]
        if not isinstance(x, dict):
            return x
        ((kind, of),) = x.items()
        if kind == "tensor":
            array = operands[of]
            return torch.from_numpy(array if array.flags.writeable else array.copy())
        return torch.device(of) if kind == "device" else getattr(torch, of)

    document = json.loads(arguments)
    with torch.no_grad():
        given = {key: value(x) for key, x in document["kwargs"].items()}
        result = operator(name)(*map(value, document["args"]), **given)
    results = result if isinstance(result, tuple | list) else (result,)
    return tuple(as_numpy(r) for r in results)
