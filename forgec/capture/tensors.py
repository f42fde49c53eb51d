"""torch tensors as numpy arrays on the same memory."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch

__all__ = ["as_numpy"]


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's values, sharing its memory where it is on the CPU; bfloat16 through ml_dtypes."""
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
