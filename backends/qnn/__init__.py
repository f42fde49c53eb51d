"""Qualcomm's Hexagon NPU, by ONNX Runtime's QNN execution provider (the extra ``forgec[qnn]``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..target import Target
from .socs import TARGETS

if TYPE_CHECKING:
    from .backend import QnnBackend

__all__ = ["TARGETS", "create"]


def create(target: Target) -> QnnBackend:
    from .backend import QnnBackend

    return QnnBackend(target)
