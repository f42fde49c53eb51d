"""A Hugging Face model that is in memory already, made ready to compile without being changed."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from forgec.errors import ModelError

from .building import refuse_quantised

__all__ = ["float32_copy"]

_TAKEN = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Types of weights whose numbers are what they stand for; those of 8 bits have scales beside them."""


def float32_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A model like ``model``, in evaluation mode, without gradients and without cache.

    It has the memory of the original's float32 tensors, and float32 tensors of its own for those of other
    floats. Raises `ModelError` for weights on another device, of another type, or quantised.
    """
    settings = getattr(model.config, "quantization_config", None)
    if settings is not None:
        given = settings if isinstance(settings, dict) else settings.to_dict()
        method = given.get("quant_method", "unknown")
        refuse_quantised(str(getattr(method, "value", method)))
    tensors: dict[int, Any] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.device.type != "cpu":
            raise ModelError(f"{name} is on {tensor.device}", hint="move the model: model.cpu()")
        if isinstance(tensor, nn.Parameter):
            if tensor.dtype not in _TAKEN:
                refuse_quantised(f"{name} is {tensor.dtype}")
            tensors[id(tensor)] = nn.Parameter(_float32(tensor.detach()), requires_grad=False)
        else:
            tensors[id(tensor)] = _float32(tensor.detach())
    twin = copy.deepcopy(model, tensors).eval()
    for module in twin.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            config.use_cache = False
            config.dtype = torch.float32
    return twin


def _float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor
