"""Rewrites that turn a segment into the form that a vendor's compiler handles best, IR to IR.

A target's backend lists the rules that it wants; each is one file here.
"""

from .attention import decompose_attention
from .attention_scale import fold_attention_scale
from .builder import Builder, Legal, Rule, legalise, type_of
from .conv_rows import conv_on_rows
from .even_groups import even_groups
from .experts import gather_experts
from .flat_rows import flatten_rows
from .fused_linear import split_linear
from .gated_unit import split_gated
from .head_parts import part_heads
from .hidden_parts import part_hidden
from .narrowing import part_narrowing
from .norm_scale import fold_norm_scale
from .patches import patches_as_rows
from .pooled_maxima import pool_maxima
from .residual_norm import split_residual_norm
from .rotary import split_rope
from .rows_image import rows_as_image
from .split_projections import split_projections
from .wide_products import split_wide_products

__all__ = [
    "Builder",
    "Legal",
    "Rule",
    "conv_on_rows",
    "decompose_attention",
    "even_groups",
    "flatten_rows",
    "fold_attention_scale",
    "fold_norm_scale",
    "gather_experts",
    "legalise",
    "part_heads",
    "part_hidden",
    "part_narrowing",
    "patches_as_rows",
    "pool_maxima",
    "rows_as_image",
    "split_gated",
    "split_linear",
    "split_projections",
    "split_residual_norm",
    "split_rope",
    "split_wide_products",
    "type_of",
]
