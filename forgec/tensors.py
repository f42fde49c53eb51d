"""torch tensors as numpy arrays on the same memory."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch
import xxhash

__all__ = ["as_numpy", "content_digest", "lifted_name"]


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's values, sharing its memory where it is on the CPU; bfloat16 through ml_dtypes."""
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def lifted_name(tensor: torch.Tensor) -> str:
    """Name of a constant that is no parameter or buffer. It is that of its content: programs share constants
    by their names, and code may make another table for every size."""
    return f"lifted.{content_digest(tensor)}"


def content_digest(tensor: torch.Tensor) -> str:
    """What only tensors of one type and content have."""
    content = np.ascontiguousarray(as_numpy(tensor)).reshape(-1).view(np.uint8)
    digest = xxhash.xxh3_64(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(content.data)
    return digest.hexdigest()
