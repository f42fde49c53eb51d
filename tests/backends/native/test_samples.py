"""Every op of the IR on its own samples, contiguous and strided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from forgec.backends.cpu import native
from native_runs import ROUNDS, assert_matches, instruction, strided

from forgec.ir import ops  # noqa: F401
from forgec.ir.op import OPS, get

_NOT_NATIVE = {"quantise", "narrow", "scales", "fitted_codes", "fitted_scales", "aten", "cache_mask"}
"""Ops of constant recipes, which numpy evaluates, what PyTorch computes, and what an NPU's host does once a run."""

_OPS = sorted(
    name for name, op in OPS.items() if not op.view and op.samples is not None and name not in _NOT_NATIVE
)


def _tolerance(isa: str, attrs: Mapping[str, Any]) -> float:
    return 1e-2 if isa in ROUNDS and attrs.get("bf16") else 2e-6


@pytest.mark.parametrize("op", _OPS)
def test_samples(isa: str, op: str) -> None:
    seed = 7
    samples = get(op).samples
    assert samples is not None
    for sample in samples(np.random.default_rng(seed)):
        assert native.supports(instruction(op, sample.operands, sample.attrs)) is None
        assert_matches(op, sample.operands, sample.attrs, _tolerance(isa, sample.attrs))


@pytest.mark.parametrize("op", _OPS)
def test_strided_samples(isa: str, op: str) -> None:
    for seed in range(3):
        print("seed", seed)
        rng = np.random.default_rng(seed)
        samples = get(op).samples
        assert samples is not None
        for sample in samples(rng):
            operands = [strided(rng, x) if isinstance(x, np.ndarray) else x for x in sample.operands]
            assert_matches(op, operands, sample.attrs, _tolerance(isa, sample.attrs), threads=2)


def test_every_op_has_samples_or_moves_a_state() -> None:
    without = {name for name, op in OPS.items() if op.samples is None}
    assert without == {"call", "read_state", "write_state", "write_rows", "view_state"}
