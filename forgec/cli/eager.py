"""Eager PyTorch as the reference; torch is imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from ..executable.convert import to_array
from ..executable.signature import Signature
from ..ir.types import DType, TensorType

__all__ = ["can_widen", "eager_precisions", "flat_outputs", "run_eager"]


def run_eager(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, wide: bool = False) -> Any:
    """What an ``nn.Module`` or an ``ExportedProgram`` returns; ``wide`` computes a f32 module in float64.

    Widening converts the module in place and back, which loses nothing.
    """
    import torch
    from torch.utils import _pytree as pytree

    from ..capture.own_code import own_code

    module = model if isinstance(model, torch.nn.Module) else model.module()
    with own_code():
        if not wide:
            return module(*args, **kwargs)
        args, kwargs = pytree.tree_map(
            lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x,
            (args, kwargs),
        )
        try:
            return module.double()(*args, **kwargs)
        finally:
            module.float()


def can_widen(model: Any) -> bool:
    """Whether the model is a module whose floats are all f32, so that it can go to float64 and back."""
    import torch

    if not isinstance(model, torch.nn.Module):
        return False
    tensors = [*model.parameters(), *model.buffers()]
    return all(t.dtype is torch.float32 for t in tensors if t.is_floating_point())


def eager_precisions(model: Any) -> frozenset[str]:
    """What a module or exported program computes in beside f32; an imported one computes in that alone."""
    from ..capture.halves import halves_among
    from ..capture.reference import Referenced

    tensors = model.state_dict if isinstance(model.state_dict, dict) else model.state_dict()
    return frozenset() if isinstance(model, Referenced) else halves_among(tensors.values())


def flat_outputs(signature: Signature, outputs: Any) -> list[np.ndarray]:
    """The tensors of a model's nested output in the order of the signature, floats as they are.

    Raises :class:`InputError` if they are not nested or shaped as the signature says.
    """
    found: dict[int, np.ndarray] = {}

    def collect(spec: Mapping[str, Any], value: Any) -> None:
        kind = spec["kind"]
        if kind == "tensor":
            leaf = signature.results[spec["index"]]
            wide = str(getattr(value, "dtype", "")).endswith("float64")
            wanted = TensorType(DType.F64, leaf.type.shape) if wide else leaf.type
            found[leaf.index] = to_array(value, wanted, leaf.name)
        elif kind == "dict":
            for key, item in spec["items"].items():
                collect(item, value[key])
        elif kind in ("tuple", "list"):
            for item, part in zip(spec["items"], value, strict=True):
                collect(item, part)

    try:
        collect(signature.outputs, outputs)
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise InputError(
            f"the model's outputs are not those of the file: {error}",
            hint="give the model, --part, --attn and --layers that it was compiled with",
        ) from None
    return [found[index] for index in range(len(found))]
