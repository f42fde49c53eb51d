"""What a report says of a program."""

from __future__ import annotations

import pytest

from forgec.ir.parser import parse
from forgec.report.compose import experts_as_floats, gathered_weights
from forgec.weights import WeightSpec


@pytest.mark.parametrize(("shape", "warned"), [("4,8,8", True), ("32,8", False), ("400,8,8", False)])
def test_only_matrices_that_are_copied_more_often_than_they_are_count(shape: str, warned: bool) -> None:
    """Experts for every token, not a table of positions, and not one of several matrices once."""
    rest = shape.partition(",")[2]
    program = parse(
        f"""program @main(r0 "ids": i64[64]) -> (r1 "y": f32[64,{rest}]) {{
  const c0: f32[{shape}] = "w"
  r1: f32[64,{rest}] = gather c0, r0
  return r1
}}
"""
    )
    warnings = gathered_weights(program)
    assert bool(warnings) is warned
    assert all("experts are gathered" in text for text in warnings)


def test_weights_of_experts_that_stay_floats_count_once() -> None:
    program = parse(
        """program @main(r0 "x": f32[4,8], r1 "ids": i64[4]) -> (r3 "y": f32[4,8]) {
  const c0: f32[96,8] = "w"
  const c1: f32[24,8] = "v"
  r2: f32[4,32] = expert_linear r0, c0, r1 {experts=3}
  r3: f32[4,8] = expert_linear r0, c1, r1 {experts=3}
  return r3
}
"""
    )
    (text,) = experts_as_floats(program, WeightSpec.parse("int8"))
    assert "3.75 KiB of weights of experts stay floats" in text
    (text,) = experts_as_floats(program, WeightSpec.parse("auto,w=int4"))
    assert "3.00 KiB" in text, "of those that were to be compressed"
    assert not experts_as_floats(program, WeightSpec.parse("auto,other=int8"))
    assert not experts_as_floats(program, WeightSpec.parse("fp32"))
