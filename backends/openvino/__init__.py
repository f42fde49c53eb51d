"""Intel's NPUs, through OpenVINO and Intel's own NPU compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..target import Target

if TYPE_CHECKING:
    from .backend import OpenVinoBackend

__all__ = ["TARGETS", "create"]

_LIMITS = (
    ("shapes", "static; inputs and outputs have at most 5 axes"),
    ("floats", "computed in 16 bits"),
    ("states", "stay on the host, as inputs and outputs of a segment"),
)

TARGETS = (
    Target(
        "intel-npu3720",
        "Intel NPU of Core Ultra series 1 and 200S/H",
        ("intel-npu-3720", "meteor-lake", "arrow-lake", "mtl", "arl"),
        "f16",
        _LIMITS,
    ),
    Target(
        "intel-npu4000",
        "Intel NPU of Core Ultra series 200V",
        ("intel-npu", "intel-npu-4000", "lunar-lake", "lnl"),
        "f16",
        _LIMITS,
    ),
    Target(
        "intel-npu5010",
        "Intel NPU of Core Ultra series 3",
        ("intel-npu-5010", "panther-lake", "ptl"),
        "f16",
        _LIMITS,
    ),
)


def create(target: Target) -> OpenVinoBackend:
    from .backend import OpenVinoBackend

    return OpenVinoBackend(target)
