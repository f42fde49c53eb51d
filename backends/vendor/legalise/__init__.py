"""Rewrites that turn a segment into the form that a vendor's compiler handles best, IR to IR.

A target's backend lists the rules that it wants; each is one file here.
"""

from .attention import decompose_attention
from .attention_scale import fold_attention_scale
from .builder import Builder, Legal, Rule, legalise, type_of
from .conv_rows import conv_on_rows
from .flat_rows import flatten_rows
from .fused_linear import split_linear
from .gated_unit import split_gated
from .residual_norm import split_residual_norm
from .rotary import split_rope
from .split_projections import split_projections
from .wide_products import split_wide_products

__all__ = [
    "Builder",
    "Legal",
    "Rule",
    "conv_on_rows",
    "decompose_attention",
    "flatten_rows",
    "fold_attention_scale",
    "legalise",
    "split_gated",
    "split_linear",
    "split_projections",
    "split_residual_norm",
    "split_rope",
    "split_wide_products",
    "type_of",
]
