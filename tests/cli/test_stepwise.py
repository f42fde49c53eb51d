"""Stepwise runs: the profile, and finding the instruction that goes wrong."""

import numpy as np
import pytest
from cli_toy import Wrong, example, toy
from forgec.backends.cpu import CpuBackend
from forgec.backends.null import NullBackend

from forgec.report.stepwise import first_divergence, interpret, profile


def wrong(op, error):
    backend = Wrong(op, error)
    return toy(selftest=False, backend=lambda name: backend)


def test_the_interpreter_agrees_with_a_right_executable():
    executable = toy()
    for got, want in zip(interpret(executable, example()), executable.run_flat(example()), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert first_divergence(executable, example(), 2.1e-5) is None


@pytest.mark.parametrize(("op", "index"), [("embedding", 0), ("linear", 1), ("gelu", 2), ("add", 3)])
def test_the_first_wrong_instruction_is_named(op, index):
    found = first_divergence(wrong(op, 0.01), example(), 2.1e-5)
    assert found is not None
    assert (found.index, found.instr.op) == (index, op)
    assert found.max_abs == pytest.approx(0.01, rel=0.01)
    assert str(found).startswith(f"instruction {index}: r{index + 2}: f32[1,4,8] @cpu")


def test_nan_is_a_divergence():
    found = first_divergence(wrong("gelu", np.float32("nan")), example(), 2.1e-5)
    assert found is not None
    assert found.instr.op == "gelu"
    assert "# aten.gelu, model.py:6, act" in str(found)


def test_an_error_within_the_bound_is_none():
    assert first_divergence(wrong("add", 1e-3), example(), 1e-2) is None


def test_a_place_that_is_overwritten_too_early_is_found():
    executable = toy(selftest=False)
    plan = executable.plan
    body = plan.program.main.body
    product, bias = body[1].results[0], plan.program.main.params[1]
    plan.offsets[product] = plan.offsets[bias]  # which is read two instructions later
    found = first_divergence(executable, example(), 2.1e-5)
    assert found is not None
    assert (found.index, found.instr.op) == (3, "add")


def test_profile_times_every_instruction_and_other_devices_whole():
    steps = profile(toy(), example(), 3)
    assert [(s.op, s.device) for s in steps] == [
        (op, "cpu") for op in ("embedding", "linear", "gelu", "add", "linear")
    ]
    backends = {
        "null": NullBackend(refuses=("gelu",), pretend=True, lag_s=0.01, cost_us=0.0),
        "cpu": CpuBackend(cost=lambda instr: 1e6),
    }
    executable = toy(selftest=False, backend=backends.__getitem__, target="null")
    steps = profile(executable, example(), 2)
    segments = [s for s in steps if s.device == "null"]
    assert [s.op for s in segments] == ["segment"] * len(segments)
    assert len(segments) == 2
    assert all(s.ms >= 10 for s in segments)
    assert [s.op for s in steps if s.device == "cpu"].count("gelu") == 1
    assert first_divergence(executable, example(), 2.1e-5) is None
