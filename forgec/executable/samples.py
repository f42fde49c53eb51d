"""The self-test of an artifact: inputs, and the outputs that they must give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ArtifactError
from ..ir.types import TensorType
from .signature import Signature

__all__ = ["SelfTest", "sampled", "stored_selftest"]

SELFTEST_ELEMENTS = 1 << 18
"""Elements of an output that a self-test keeps at most, unless one row has more."""


@dataclass(frozen=True)
class SelfTest:
    """Inputs and the outputs that they must give, by index of the signature; large outputs
    :func:`sampled`."""

    inputs: Sequence[np.ndarray]
    outputs: Sequence[np.ndarray]


def sampled(output: np.ndarray) -> np.ndarray:
    """An output as a self-test keeps it: whole, or evenly spaced rows of its last axis, the last one
    included.

    The rows of a large output come as [rows kept, last axis].
    """
    step = _row_step(output.shape)
    return output if step == 1 else output.reshape(-1, output.shape[-1])[::-step][::-1]


def stored_selftest(tensors: Mapping[str, np.ndarray], signature: Signature) -> SelfTest:
    """The self-test of a file from its tensors ``input.N`` and ``output.N``; :class:`ArtifactError` unless
    they are what the signature asks for."""
    groups = []
    for prefix, leaves in (("input", signature.inputs), ("output", signature.results)):
        arrays = [tensors.get(f"{prefix}.{i}") for i in range(len(leaves))]
        found = [array for array in arrays if array is not None]
        types = [_sampled_type(leaf.type) if prefix == "output" else leaf.type for leaf in leaves]
        if [TensorType.of(array) for array in found] != types:
            raise ArtifactError("the self-test does not fit the call signature")
        groups.append(found)
    return SelfTest(*groups)


def _row_step(shape: tuple[int, ...]) -> int:
    """Every how many rows of the last axis a self-test keeps one."""
    if math.prod(shape) <= SELFTEST_ELEMENTS or len(shape) < 2:
        return 1
    return math.ceil(math.prod(shape[:-1]) / max(1, SELFTEST_ELEMENTS // shape[-1]))


def _sampled_type(full: TensorType) -> TensorType:
    """Type of an output as a self-test keeps it."""
    step = _row_step(full.shape)
    if step == 1:
        return full
    return TensorType(full.dtype, (math.ceil(math.prod(full.shape[:-1]) / step), full.shape[-1]))
