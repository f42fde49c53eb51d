"""The call signature of a module: names and nesting of its inputs and outputs, as the artifact keeps them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError
from ..executable.signature import Signature, Spec
from ..graph import tensor_type

__all__ = ["TensorTable", "build_signature", "parameter_names"]


class TensorTable:
    """Numbers the tensors of a nested structure in order and remembers their names."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.tensors: list[torch.Tensor] = []

    def spec(self, value: Any, name: str) -> Spec:
        """The JSON-able description of a value; tensors get the next numbers.

        Raises ``CaptureError`` for an object that is neither a tensor, a plain constant, a list, a tuple, a
        mapping nor a dataclass of these.
        """
        if isinstance(value, torch.Tensor):
            self.names.append(name)
            self.tensors.append(value)
            index = len(self.tensors) - 1
            return {"kind": "tensor", "index": index, "name": name, "type": str(tensor_type(value))}
        if value is None:
            return {"kind": "none"}
        if isinstance(value, bool | int | float | str):
            return {"kind": "literal", "value": value}
        if isinstance(value, Mapping):
            return self._mapping(value, name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return self._mapping({k: v for k, v in fields.items() if v is not None}, name)
        if isinstance(value, Sequence):
            kind = "list" if isinstance(value, list) else "tuple"
            join = f"{name}." if name else ""
            return {"kind": kind, "items": [self.spec(v, f"{join}{i}") for i, v in enumerate(value)]}
        raise CaptureError(
            f"{name or 'a value'} is a {type(value).__name__}; inputs and outputs must be tensors, "
            "constants, or tuples, lists and dicts of them",
            hint="wrap it in a module that takes and returns tensors (language models: use_cache=False)",
        )

    def _mapping(self, value: Mapping[Any, Any], name: str) -> Spec:
        join = f"{name}." if name else ""
        return {"kind": "dict", "items": {str(k): self.spec(v, f"{join}{k}") for k, v in value.items()}}


def parameter_names(module: nn.Module, count: int) -> list[str]:
    """Names of the positional parameters of ``forward``, at least ``count``; ``*args`` are numbered."""
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}.{i}" for i in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names + [f"arg{i}" for i in range(len(names), count)]


def build_signature(
    names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: Any
) -> tuple[Signature, TensorTable]:
    """Signature of a call ``module(*args, **kwargs) -> outputs``, and the table of its input tensors.

    ``names`` are the positional parameters of the module's ``forward``; the first ones name ``args``.
    """
    inputs, results = TensorTable(), TensorTable()
    positional = [inputs.spec(value, name) for name, value in zip(names[: len(args)], args, strict=True)]
    keyword = {key: inputs.spec(value, key) for key, value in kwargs.items()}
    out = results.spec(outputs, "output" if isinstance(outputs, torch.Tensor) else "")
    signature = Signature(
        {"kind": "tuple", "items": positional}, {"kind": "dict", "items": keyword}, out, tuple(names)
    )
    return signature, inputs
