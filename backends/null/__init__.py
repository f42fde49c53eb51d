"""A device that does not exist, for testing placement, fallback and failure without hardware."""

from .backend import NullBackend

__all__ = ["NullBackend", "create"]

create = NullBackend
