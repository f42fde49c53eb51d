"""``forgec::update_rows``: the operator by which a model that is captured with a cache writes to it.

It is functional, so that a captured graph stays so; lowering makes the IR op ``update_rows`` of it, and only
the flat program writes in place (``ir.in_place``).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["CACHE", "UPDATE_ROWS", "limited", "update_rows"]

CACHE = "cache"
"""Name of the input and of the output of a decoder that hold its cache."""


@torch.library.custom_op("forgec::update_rows", mutates_args=())
def update_rows(cache: Tensor, new: Tensor, position: Tensor) -> Tensor:
    """``cache`` [..., C, D] with rows [position, position + T) of its last but one axis replaced by ``new``
    [..., T, D]; ``position`` is an int64 scalar.

    What the result has from row position + T on means nothing: whoever reads it must not depend on it.
    """
    first = int(position)
    result = cache.clone()
    result[..., first : first + new.shape[-2], :] = new
    return result


@update_rows.register_fake
def _(cache: Tensor, new: Tensor, position: Tensor) -> Tensor:
    return torch.empty_like(cache, memory_format=torch.contiguous_format)


def limited(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` as ``dtype``, its finite values finite."""
    if x.dtype is dtype:
        return x
    limits = torch.finfo(dtype)
    return x.clamp(limits.min, limits.max).to(dtype)


UPDATE_ROWS = torch.ops.forgec.update_rows.default
