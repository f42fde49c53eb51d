"""The CPU: runs everything, and is where a program's inputs and outputs are."""

from ..target import Target
from .backend import CpuBackend

__all__ = ["TARGETS", "CpuBackend", "create"]

TARGETS = (Target("cpu", "this machine's processor"),)


def create(target: Target) -> CpuBackend:
    return CpuBackend()
