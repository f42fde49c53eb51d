"""What a capture accepts: modules of plain tensors in evaluation mode, and inputs of known types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..errors import CaptureError
from ..graph import TORCH_DTYPES

__all__ = ["input_tensors", "require_plain"]

_PACKED_KINDS = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
_AS_BEFORE = 'compile the model as it was before, with weights="w8a8" or "int8"'


def require_plain(model: nn.Module, name: str) -> None:
    """:class:`CaptureError` for a module that is not one of plain tensors in evaluation mode."""
    for path, module in model.named_modules():
        if type(module).__module__.startswith(_PACKED_KINDS):
            raise CaptureError(
                f"{path or name} is a {type(module).__name__} that torch.ao quantised, with weights packed "
                "for its own kernels",
                hint=_AS_BEFORE,
            )
        if module.training:
            raise CaptureError(
                f"{name} is in training mode (module {path or name!r})", hint="call model.eval() first"
            )
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_traceable_wrapper_subclass(tensor):
            raise CaptureError(
                f"{path} is a {type(tensor).__name__}, not a plain tensor, as quantised weights are",
                hint=_AS_BEFORE,
            )


def input_tensors(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors among example inputs; :class:`CaptureError` if they are none that can be compiled for."""
    if not args and not kwargs:
        raise CaptureError(
            f"no example inputs for {name}",
            hint="pass args=(tensor, ...) or kwargs={...} with the shapes to compile for",
        )
    inputs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    strange = next((x for x in inputs if x.dtype not in TORCH_DTYPES), None)
    if strange is not None:
        raise CaptureError(
            f"an input of {name} is a tensor {list(strange.shape)} of {strange.dtype}, an element type that "
            "forgec does not have",
            hint=f"give tensors of {', '.join(str(dtype).removeprefix('torch.') for dtype in TORCH_DTYPES)}",
        )
    return inputs
