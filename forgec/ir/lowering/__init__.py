"""Phase 3: FX graphs to a typed :class:`~forgec.ir.program.Program`."""

from .lower import Lowered, lower
from .registry import is_supported

__all__ = ["Lowered", "is_supported", "lower"]
