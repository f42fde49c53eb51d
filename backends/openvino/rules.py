"""The forms that Intel's NPU compiler handles best.

Slices of a wide product become products of their own, and attention's scale goes into the weights of the
queries, which takes a few percent off a simulated run. Norms and matrix products go in two axes. Where
grouped queries have several rows the key heads are repeated: folding the group into the rows makes the
compiler's own attention matcher fail on the mask.
"""

from __future__ import annotations

from forgec.ir.program import Program

from ..vendor.legalise import (
    Legal,
    Rule,
    decompose_attention,
    even_groups,
    flatten_rows,
    fold_attention_scale,
    legalise,
    split_gated,
    split_linear,
    split_projections,
    split_residual_norm,
    split_rope,
)

__all__ = ["legalise_segment"]

_RULES: tuple[Rule, ...] = (
    split_residual_norm,
    split_linear,
    split_gated,
    split_rope,
    decompose_attention("fold rows of one"),
    even_groups,
    flatten_rows("linear", "linear_q", "rms_norm"),
)


def legalise_segment(segment: Program) -> Legal:
    """The segment in the form that :func:`forgec.backends.openvino.emit.emit` takes."""
    return legalise(segment, [*split_projections(segment), *fold_attention_scale(segment)]).then(_RULES)
