"""A device that does not exist, for testing placement, fallback and failure without hardware."""

from ..target import Target
from .backend import NullBackend

__all__ = ["TARGETS", "NullBackend", "create"]

TARGETS = (Target("null", "no device", stand_in=True),)


def create(target: Target) -> NullBackend:
    return NullBackend(target.name)
