"""Rewrites of a segment for HTP, IR to IR: done before emission."""

from __future__ import annotations

from forgec.ir.program import Program

from ..vendor.legalise import (
    Legal,
    conv_on_rows,
    fold_attention_scale,
    legalise,
    split_projections,
    split_wide_products,
)

__all__ = ["FITS", "legalise_segment"]

FITS = 6 << 20
"""Bytes of a weight that surely fit on the chip (8 MiB on v73) beside what flows through."""


def legalise_segment(segment: Program) -> Legal:
    """The segment in the form that :func:`forgec.backends.qnn.emit.emit` takes."""
    rules = [
        *split_projections(segment),
        *fold_attention_scale(segment),
        *split_wide_products(segment, FITS),
        *conv_on_rows(),
    ]
    return legalise(segment, rules)
