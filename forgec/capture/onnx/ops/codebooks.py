"""Weights whose codes of 4 bits are places in a table of floats, as ``bitsandbytes`` has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ....ir.stored import Unkept
from ..codes import Dequantised
from ..registry import CONTRIB, Unsupported, converts

_FP4 = (0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
_TABLES = tuple(np.array(table, np.float32) for table in ((*_FP4, *(-x for x in _FP4)), _NF4))
"""By ``quant_type``: what a code stands for, times the largest magnitude of its block."""


def _unpack(inputs: list[Any], attributes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The packed weight [N, K] and the largest magnitudes of its blocks, which run on over rows, as one
    constant."""
    x, packed, largest = inputs
    if not isinstance(packed, np.ndarray) or not isinstance(largest, np.ndarray):
        raise Unsupported("weights that are no constants")
    if not attributes.get("transB", 1) or attributes.get("quant_type") not in (0, 1):
        raise Unsupported("a weight that is not turned, or codes that are neither FP4 nor NF4")
    outs, depth, block = (int(attributes[name]) for name in ("N", "K", "block_size"))
    codes = np.stack((packed.reshape(-1) >> 4, packed.reshape(-1) & 15), -1).reshape(-1)[: outs * depth]
    weight = _TABLES[attributes["quant_type"]][codes]
    weight *= np.repeat(largest.reshape(-1).astype(np.float32), block)[: weight.size]
    kept = Unkept("codes of a table of floats (FP4 or NF4)", packed.nbytes)
    return [x, Dequantised(weight.reshape(outs, depth).astype(largest.dtype, copy=False), kept)], {}


@converts("MatMulBnb4", domain=CONTRIB, prepare=_unpack)
def matmul_bnb4(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight)
