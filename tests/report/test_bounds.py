"""Bounds by the precision of devices and the format of weights, and that verify keeps to them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from forgec.backends.cpu import CpuBackend
from forgec.backends.null import NullBackend
from typer.testing import CliRunner

import forgec
from forgec.cli.main import app
from forgec.ir.parser import parse
from forgec.plan.planner import make_plan
from forgec.report.bounds import (
    CODES,
    EXACT,
    bounds_of,
    compressed,
    formats_of,
    largest,
    least_exact,
    lowest_precision,
    program_precision,
)
from forgec.report.metrics import difference

TEXT = """program @main(r0 "x": f32[4]) -> (r2 "y": f32[4]) {
  r1: f32[4] = gelu r0
  r2: f32[4] = exp r1
  return r2
}
"""


PRODUCTS = """program @main(r0 "x": f32[2,64], r1 "ids": i64[2]) -> (r6 "y": f32[2,64]) {
  const c0: i8[64,64] = "w"
  const c1: f32[1,64] = "s"
  const c2: i4[64,64] = "v"
  r2: f32[2,64] = linear_q r0, c0, c1 {dynamic=true}
  r3: f32[2,64] = embedding_q c0, r1, c1
  r4: f32[2,64] = add r2, r3
  r5: f32[2,64] = linear_q r4, c2, c1
  r6: f32[2,64] = linear_q r5, c2, c1 {dynamic=true}
  return r6
}
"""


def test_f32_has_the_projects_own_and_16_bits_a_share_of_the_largest_value() -> None:
    outputs = [np.array([1.0, -8.0]), np.array([np.inf, 3.0])]
    assert bounds_of("f32", outputs) == EXACT
    low = bounds_of("f16", outputs)
    assert low.max_abs == pytest.approx(0.08) and low.relative == pytest.approx(0.01)
    assert largest(outputs[1]) == 3.0 and largest(np.empty(0)) == 0.0
    assert low.hold(difference(np.array([1.0, -8.0]), np.array([1.0, -7.95])))
    assert not low.hold(difference(np.array([1.0, -8.0]), np.array([1.0, -7.9])))


def test_rounding_to_codes_is_bound_by_what_a_flipped_code_changes() -> None:
    """Values at the border of two codes go either way, so equality with a reference cannot be asked."""
    plain = parse(TEXT)
    assert program_precision(plain) == "f32"
    rounding = parse(TEXT.replace("exp r1", "round r1"))
    assert program_precision(rounding) == CODES
    assert bounds_of(CODES, [np.array([2.0])]).max_abs == pytest.approx(0.2)
    assert program_precision(parse(PRODUCTS)) == CODES
    assert program_precision(parse(PRODUCTS.replace("dynamic=true", "dynamic=false"))) == "f32"


def test_compressed_weights_are_bound_by_the_divergence_alone() -> None:
    found = compressed(["int8", "int4"])
    assert math.isinf(found.max_abs) and found.kl == compressed(["int4"]).kl
    assert found.kl > compressed(["int8"]).kl
    assert compressed(["int8", CODES]).kl == bounds_of(CODES, []).kl


def test_formats_are_those_of_the_instructions() -> None:
    program = parse(PRODUCTS)
    assert formats_of(program) == {"w8a8", "int8", "int4", "w4a8"}
    assert least_exact({"int8", "w8a8"}) == "w8a8" and least_exact({"w8a8", "int4"}) == "int4"
    assert formats_of(parse(TEXT)) == frozenset()


def test_the_least_exact_device_counts() -> None:
    half = NullBackend(refuses=("gelu",), pretend=True, cost_us=0.0)
    half.precision = "f16"
    slow = CpuBackend(cost=lambda instr: 1e6)
    plan = make_plan(parse(TEXT), backends=[half, slow], target="null")
    assert {s.device for s in plan.segments} == {"cpu", "null"}
    assert lowest_precision(plan, {"null": half, "cpu": slow}.__getitem__) == "f16"
    assert lowest_precision(plan, {"null": slow, "cpu": slow}.__getitem__) == "f32"
    plan = make_plan(parse(TEXT.replace("exp r1", "round r1")), backends=[half, slow], target="null")
    assert lowest_precision(plan, {"null": half, "cpu": slow}.__getitem__) == CODES


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_programs_of_16_bit_floats_are_bound_by_these(kind: str, tmp_path: Path) -> None:
    """What rounds in another order is the same function: the compile passes, and so does verify."""
    torch.manual_seed(0)
    dtype = getattr(torch, kind)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.LayerNorm(64)).to(dtype)
    exported = torch.export.export(model.eval(), (torch.randn(2, 64).to(dtype),), strict=False)
    source, path = tmp_path / "m.pt2", tmp_path / "m.forge"
    torch.export.save(exported, source)
    run = CliRunner().invoke
    compiled = run(app, ["compile", "-m", str(source), "-o", str(path), "-q"])
    assert compiled.exit_code == 0, compiled.output
    with forgec.load(path) as executable:
        assert lowest_precision(executable.plan, executable.shared.backend) == {"float16": "f16"}.get(
            kind, "bf16"
        )
    for more in ([], ["-m", str(source)]):
        verified = run(app, ["verify", str(path), *more, "-q"])
        assert verified.exit_code == 0, verified.output


def test_verify_of_compressed_weights(tmp_path: Path) -> None:
    """Eager has the weights as they are, the interpreter and the stored outputs have the codes."""
    path = tmp_path / "m.forge"
    forgec.compile("gpt2-tiny", weights="int8").save(path)
    for model in ([], ["-m", "gpt2-tiny"]):
        result = CliRunner().invoke(app, ["verify", str(path), *model, "-q"])
        assert result.exit_code == 0, result.output
