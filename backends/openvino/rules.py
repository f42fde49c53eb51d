"""The forms that Intel's NPU compiler handles best.

Slices of a wide product become products of their own, and attention's scale goes into the weights of the
queries, which takes a few percent off a simulated run. A convolution over patches is a product. Norms and
matrix products go in two axes; on the platforms where that helps, products with constant weights become
convolutions over an image of their rows, wide hidden layers and products that narrow are made in parts, a
layer norm's scale goes into weights, and attention over many scores does without a softmax. Where grouped
queries have several rows the key heads are repeated: folding the group into the rows makes the compiler's own
attention matcher fail on the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

from forgec.ir.program import Program

from ..vendor.legalise import (
    Legal,
    Rule,
    conv_on_rows,
    decompose_attention,
    even_groups,
    flatten_rows,
    fold_attention_scale,
    fold_norm_scale,
    gather_experts,
    legalise,
    part_heads,
    part_hidden,
    part_narrowing,
    patches_as_rows,
    pool_maxima,
    rows_as_image,
    split_gated,
    split_linear,
    split_projections,
    split_residual_norm,
    split_rope,
    split_wide_products,
)

__all__ = ["legalise_segment"]

_RULES: tuple[Rule, ...] = (
    patches_as_rows,
    split_residual_norm,
    split_linear,
    gather_experts,
    split_gated,
    split_rope,
    decompose_attention("fold rows of one"),
    even_groups,
    flatten_rows("linear", "linear_q", "rms_norm"),
)


@dataclass(frozen=True)
class _Forms:
    """Without any of it products stay as they are.

    ``heights`` are those that the image of a product's rows may have, ``wide`` those that are tried before in
    a wide product, ``hidden`` the elements of a wide layer's part, ``narrowing`` the parts of a product that
    narrows, ``weights`` the bytes of a piece of a weight, ``norms`` the elements over which a norm's scale
    goes into weights, ``scores`` those of attention over which heads go some at a time, ``pooled`` those of a
    head over which it goes without a softmax.
    """

    heights: tuple[int, ...] = ()
    wide: tuple[int, ...] = ()
    hidden: int = 0
    narrowing: int = 1
    weights: int = 0
    norms: int | None = None
    scores: int | None = None
    pooled: int | None = None


_PIECES = 8
"""Pieces of a weight at most: each is more work for the compiler."""

_FORMS = {
    "3720": _Forms((16, 4), weights=2**19, norms=2**17, scores=2**16),
    "4000": _Forms((16, 4), wide=(8,), hidden=2**17, norms=2**17, scores=2**21),
    "5010": _Forms(narrowing=2, norms=0, scores=2**21, pooled=100_000),
}
"""By platform, as its simulated runs have it: docs/intel.md. Where attention is over a cache, whose rows the
new ones join, neither is of use."""


def legalise_segment(segment: Program, platform: str) -> Legal:
    """The segment in the form that :func:`forgec.backends.openvino.emit.emit` takes."""
    cached = any(instr.op == "attention" and instr.attrs.get("bounded") for instr in segment.main.body)
    forms = _Forms() if cached else _FORMS[platform]
    legal = legalise(segment, [*split_projections(segment), *fold_attention_scale(segment)])
    if forms.norms is not None:
        legal = legal.then(fold_norm_scale(legal.program, forms.norms))
    if forms.hidden:
        legal = legal.then(part_hidden(legal.program, forms.hidden))
    if forms.narrowing > 1:
        legal = legal.then(part_narrowing(legal.program, forms.narrowing))
    if forms.weights:
        legal = legal.then(split_wide_products(legal.program, forms.weights, most=_PIECES))
    if forms.pooled is not None:
        legal = legal.then([pool_maxima(forms.pooled)])
    if forms.scores is not None:
        legal = legal.then([part_heads(forms.scores)])
    return legal.then([*conv_on_rows(), *_RULES, rows_as_image(*forms.heights, wide=forms.wide)])
