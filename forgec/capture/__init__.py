"""Phase 1: a model becomes ATen graphs in torch.fx form, one per distinct block, with named constants."""

from .capture import Capture, capture

__all__ = ["Capture", "capture"]
