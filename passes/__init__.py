"""Phase 2: rewrites of the captured graphs, one file per pass, one ordered list."""

from .manager import PASSES, optimise

__all__ = ["PASSES", "optimise"]
