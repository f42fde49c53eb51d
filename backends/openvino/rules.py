"""The forms that Intel's NPU compiler handles best.

Slices of a wide product become products of their own, and attention's scale goes into the weights of the
queries, which takes a few percent off a simulated run. A convolution over patches is a product. Norms and
matrix products go in two axes; on the platforms where that helps, products with constant weights become
convolutions over an image of their rows, and wide hidden layers are made in parts. Where grouped queries have
several rows the key heads are repeated: folding the group into the rows makes the compiler's own attention
matcher fail on the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

from forgec.ir.program import Program

from ..vendor.legalise import (
    Legal,
    Rule,
    decompose_attention,
    even_groups,
    flatten_rows,
    fold_attention_scale,
    legalise,
    part_hidden,
    patches_as_rows,
    rows_as_image,
    split_gated,
    split_linear,
    split_projections,
    split_residual_norm,
    split_rope,
)

__all__ = ["legalise_segment"]

_RULES: tuple[Rule, ...] = (
    patches_as_rows,
    split_residual_norm,
    split_linear,
    split_gated,
    split_rope,
    decompose_attention("fold rows of one"),
    even_groups,
    flatten_rows("linear", "linear_q", "rms_norm"),
)


@dataclass(frozen=True)
class _Forms:
    """``heights`` that the image of a product's rows may have, and ``hidden``, the elements of a wide layer's
    part; without either products stay as they are."""

    heights: tuple[int, ...] = ()
    hidden: int = 0


_FORMS = {
    "3720": _Forms((16, 4), 2**18),
    "4000": _Forms((16, 4), 2**18),
    "5010": _Forms(),
}
"""By platform, as its simulated runs have it: docs/intel.md. Where attention is over a cache, whose rows the
new ones join, neither is of use."""


def legalise_segment(segment: Program, platform: str) -> Legal:
    """The segment in the form that :func:`forgec.backends.openvino.emit.emit` takes."""
    cached = any(instr.op == "attention" and instr.attrs.get("bounded") for instr in segment.main.body)
    forms = _Forms() if cached else _FORMS[platform]
    legal = legalise(segment, [*split_projections(segment), *fold_attention_scale(segment)])
    if forms.hidden:
        legal = legal.then(part_hidden(legal.program, forms.hidden))
    return legal.then([*_RULES, rows_as_image(*forms.heights)] if forms.heights else _RULES)
