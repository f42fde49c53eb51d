"""How every op of the IR is written in OpenVINO's operation set, one file per family of ops."""

from . import elementwise, indexing, matrix, movement, normalisation, pooling, reduction
from .registry import EMITTERS, Context

__all__ = ["EMITTERS", "Context"]
