"""Rewrites that only HTP wants, IR to IR: done before emission, on top of what all vendors share."""

from __future__ import annotations

from forgec.ir.program import Program

from ...vendor.legalise import Legal, legalise
from .attention_scale import fold_attention_scale
from .split_projections import split_projections

__all__ = ["legalise_segment"]


def legalise_segment(segment: Program) -> Legal:
    """The segment in the form that :func:`forgec.backends.qnn.emit.emit` takes."""
    return legalise(segment, [*split_projections(segment), *fold_attention_scale(segment)])
