"""The memory map says what the plan says, in plain text that fits."""

from __future__ import annotations

import pytest
from plan_devices import Device
from plan_programs import Builder, gpt2, llama

from forgec.plan.memory_map import memory_map
from forgec.plan.planner import make_plan


def small() -> str:
    """r1 over the input r0; r2, a softmax, beside them; r3 a view; r4 over r2."""
    b = Builder()
    x = b("exp", b.param(4, 16))
    y = b("softmax", x)
    z = b("relu", b("reshape", y, shape=(64,)))
    return memory_map(make_plan(b.program(z), backends=[Device("cpu")], target="cpu"))


def test_buffers_and_turns() -> None:
    lines = small().splitlines()
    assert lines[0] == "arena cpu: 512 B, 0.0% over the lower bound of 512 B; 1.00 KiB without reuse"
    assert lines[1] == "5 registers in 2 buffers, rho = 0.600"
    assert lines[4].split(maxsplit=4) == ["0x0", "256", "B", "2", "r0 [-1, 0], r1 [0, 1]"]
    assert lines[5].split(maxsplit=4) == ["0x100", "256", "B", "2", "r2 [1, 3], r4 [3, 4]"]


def test_chart_is_filled_where_registers_live() -> None:
    chart = [line.split("|")[1] for line in small().splitlines() if "|" in line]
    assert len(chart) == 24
    assert set(chart[:12]) == {"###   "}
    assert set(chart[12:]) == {"  ####"}


@pytest.mark.parametrize("layers", [1, 12])
def test_fits_a_terminal(layers: int) -> None:
    plan = make_plan(gpt2(layers, cache=True), backends=[Device("cpu")], target="cpu")
    text = memory_map(plan)
    assert max(map(len, text.splitlines())) <= 100
    assert text.isascii()
    assert all(f"{offset:#x}" in text for offset in set(plan.offsets.values()))
    if layers == 12:
        assert " more\n" in text


def test_one_section_per_device_and_an_empty_one() -> None:
    backends = [Device("npu", lambda i: 1.0, ["rope"]), Device("cpu", lambda i: 99.0)]
    plan = make_plan(llama(1, 16, 64, 4, 2, 128, 100), backends=backends, target="npu")
    text = memory_map(plan)
    assert text.count("arena cpu: ") == text.count("arena npu: ") == 1
    b = Builder()
    w = b("exp", b.const(0, 8))
    empty = memory_map(make_plan(b.program(w), backends=[Device("cpu")], target="cpu"))
    assert "(empty)" in empty and "0 B" in empty
