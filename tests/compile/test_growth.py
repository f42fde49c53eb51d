"""Nothing in forgec's own phases grows faster than the model: counted in Python calls, not in time."""

from __future__ import annotations

import sys

import pytest
from forgec.backends import get
from forgec.passes import optimise

from forgec import models
from forgec.capture import capture
from forgec.ir.inline import inline
from forgec.ir.lowering import lower
from forgec.options import Options
from forgec.plan.planner import make_plan


def calls_of_own_phases(layers: int, mode: str) -> int:
    """Python function calls from the captured graph to the plan."""
    model = models.load("qwen2-0.5b-tiny", layers=layers)
    graph = capture(model.module, *model.example_inputs(8), mode=mode).graph
    count = 0

    def tick(frame, event, arg):
        nonlocal count
        count += event == "call"

    sys.setprofile(tick)
    try:
        optimise(graph, Options())
        make_plan(inline(lower(graph).program), backends=[get("cpu")], target="cpu")
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("mode", ["blocks", pytest.param("full", marks=pytest.mark.slow)])
def test_own_phases_grow_no_faster_than_the_layers(mode):
    few, many = (calls_of_own_phases(n, mode) for n in (6, 24))
    assert many < 4.4 * few, f"{few} calls for 6 layers, {many} for 24"


def test_blocks_make_depth_nearly_free():
    few, many = (calls_of_own_phases(n, "blocks") for n in (6, 24))
    assert many < 2.5 * few, f"{few} calls for 6 layers, {many} for 24"
