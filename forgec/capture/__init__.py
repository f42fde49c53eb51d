"""Phase 1: a model becomes ATen graphs in torch.fx form, one per distinct block, with named constants."""

from .capture import Capture, capture
from .graph import Block, CapturedGraph, call_block

__all__ = ["Block", "Capture", "CapturedGraph", "call_block", "capture"]
