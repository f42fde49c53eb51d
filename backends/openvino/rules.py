"""The forms that Intel's NPU compiler handles best.

Norms and matrix products go in two axes. Where grouped queries have several rows the key heads are repeated:
folding the group into the rows makes the compiler's own attention matcher fail on the mask.
"""

from __future__ import annotations

from ..vendor.legalise import (
    Rule,
    decompose_attention,
    flatten_rows,
    split_gated,
    split_linear,
    split_residual_norm,
    split_rope,
)

__all__ = ["RULES"]

RULES: tuple[Rule, ...] = (
    split_residual_norm,
    split_linear,
    split_gated,
    split_rope,
    decompose_attention("fold rows of one"),
    flatten_rows("linear", "linear_q", "rms_norm"),
)
