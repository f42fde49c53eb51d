"""The CPU: runs everything, and is where a program's inputs and outputs are."""

from .backend import CpuBackend

__all__ = ["CpuBackend", "create"]

create = CpuBackend
