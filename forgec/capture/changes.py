"""Operators that change a tensor in place: what gives a new one instead, and which tensors would notice."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["SCATTERED", "memory_of", "overlap", "place_of", "pure_form"]

SCATTERED = {
    torch.ops.aten.slice.Tensor: torch.ops.aten.slice_scatter.default,
    torch.ops.aten.select.int: torch.ops.aten.select_scatter.default,
}
"""By operator that takes a part the one that puts another in its place, with the same arguments."""

_COMPARED = 2**16
"""Elements of tensors in the same memory that are looked at one by one."""


def memory_of(tensor: torch.Tensor) -> int:
    """What is equal for tensors in the same memory."""
    return tensor.untyped_storage()._cdata


def overlap(some: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have elements in common; true too if they have too many to look."""
    if memory_of(some) != memory_of(other):
        return False
    if some.dtype != other.dtype or max(some.numel(), other.numel()) > _COMPARED:
        return True
    return not set(_offsets(some)).isdisjoint(_offsets(other))


def _offsets(tensor: torch.Tensor) -> list[int]:
    """Where a tensor's elements lie in its memory, in elements."""
    found = np.array(tensor.storage_offset())
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found = np.add.outer(found, np.arange(size) * stride)
    return found.ravel().tolist()


def place_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What is equal for tensors of the same elements in the same memory."""
    return memory_of(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def pure_form(func: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """The operator that gives as a new tensor what one makes of its first operand, the only one that it
    changes; None if there is none."""
    if func is torch.ops.aten.zero_.default:
        return torch.ops.aten.zeros_like.default
    schema = func._schema
    changed = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
    name = schema.name.removeprefix("aten::")
    if func.namespace != "aten" or not name.endswith("_") or not changed[0] or sum(changed) != 1:
        return None
    pure = f"__{name[3:]}" if name.startswith("__i") else name[:-1]  # x |= y is __ior__, and x | y __or__
    return getattr(getattr(torch.ops.aten, pure, None), func._overloadname, None)
