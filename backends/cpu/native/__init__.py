"""The native CPU runtime: instructions bound to vectorised C++ kernels, a run is one loop without Python.

:class:`NativeProgram` runs a planned flat program by itself. :func:`steps` is for a host that has arrays for
all registers already: maximal runs of supported instructions become one step each, the host's own kernels do
the rest. Weights of ``linear`` are packed into panels, when the artifact is written (:func:`pack`) or else
when the program is loaded.

The extension module is optional: :func:`available` says why it is missing, and importing this package never
fails. Nothing here needs torch.
"""

from __future__ import annotations

from .binding import PANEL, bound_op, pack, packed_operands, packing, packings, single_steps, steps, supports
from .machine import (
    Team,
    allocate,
    available,
    isa,
    isas,
    multiply_adds,
    peak_flops,
    peak_integer,
    read_bandwidth,
    shared_team,
    threads_default,
)
from .program import NativeProgram

__all__ = [
    "PANEL",
    "NativeProgram",
    "Team",
    "allocate",
    "available",
    "bound_op",
    "isa",
    "isas",
    "multiply_adds",
    "pack",
    "packed_operands",
    "packing",
    "packings",
    "peak_flops",
    "peak_integer",
    "read_bandwidth",
    "shared_team",
    "single_steps",
    "steps",
    "supports",
    "threads_default",
]
