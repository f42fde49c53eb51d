"""Rewrites of a segment for HTP, IR to IR: done before emission."""

from __future__ import annotations

from forgec.ir.program import Program

from ..vendor.legalise import Legal, fold_attention_scale, legalise, split_projections

__all__ = ["legalise_segment"]


def legalise_segment(segment: Program) -> Legal:
    """The segment in the form that :func:`forgec.backends.qnn.emit.emit` takes."""
    return legalise(segment, [*split_projections(segment), *fold_attention_scale(segment)])
