"""The cost model: what is counted, what a fit recovers, what a calibration file may hold."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plan_programs import Builder, f32, gpt2

from forgec.errors import OptionError
from forgec.ir.op import OPS
from forgec.ir.program import ConstRef, Function, Instr, Literal, Program, Register
from forgec.ir.types import DType
from forgec.plan.cost import FAMILIES, CostModel, Rates, cost_key, family, fit, work

MODEL = CostModel.load()


def last(b: Builder) -> Instr:
    return b.body[-1]


def test_bytes_are_operands_and_results() -> None:
    b = Builder()
    x = b.param(4, 8)
    b("add", x, Literal(1.0))
    done = work(last(b))
    assert done is not None and (done.flops, done.nbytes) == (32, 2 * 128)
    b("linear", x, b.const(16, 8), b.const(16), None)
    done = work(last(b))
    assert done is not None and (done.flops, done.nbytes) == (2 * 4 * 16 * 8, 128 + 512 + 64 + 256)


def test_a_look_up_reads_only_the_rows_it_gathers() -> None:
    b = Builder()
    b("embedding", b.const(50000, 8), b.param(1, 4, dtype=DType.I64))
    done = work(last(b))
    assert done is not None and done.nbytes == 2 * 4 * 8 * 4 + 4 * 8


def test_views_are_free() -> None:
    b = Builder()
    b("reshape", b.const(4, 8), shape=(32,))
    assert work(last(b)) is None and MODEL.instr_cost(last(b)) == 0


def test_an_activation_on_the_way_out_costs_its_arithmetic_only() -> None:
    b = Builder()
    x = b.param(64, 64)
    b("linear", x, b.const(64, 64), None, None)
    plain = MODEL.instr_cost(last(b))
    b("linear", x, b.const(64, 64), None, None, act="gelu")
    fused = MODEL.instr_cost(last(b))
    b("gelu", x)
    alone = MODEL.instr_cost(last(b))
    assert fused - plain == pytest.approx(64 * 64 / MODEL.of("gelu").flops_per_us)
    assert plain < fused < plain + alone


def test_roofline() -> None:
    rates = Rates(flops_per_us=100, bytes_per_us=10, overhead_us=3)
    assert rates.time(1000, 10) == 13 and rates.time(10, 1000) == 103


def test_every_op_has_a_family() -> None:
    assert {family(op) for op in OPS} == set(FAMILIES)
    assert [family(op) for op in ("add", "copy", "gelu")] == ["pointwise", "movement", "transcendental"]


def test_program_cost_counts_calls() -> None:
    b = Builder()
    inner = b.program(b("exp", b("exp", b.param(4, 8)))).main
    inner = replace(inner, name="block")
    x, y, z = (Register(i, f32(4, 8)) for i in range(3))
    calls = [Instr("call", (x,), (y,), {"callee": "block"}), Instr("call", (y,), (z,), {"callee": "block"})]
    main = Function("main", (x,), ("in",), calls, (z,), ("out",))
    program = Program("main", {"main": main, "block": inner})
    assert MODEL.program_cost(program) == pytest.approx(4 * MODEL.instr_cost(inner.body[0]))


def test_key_ignores_names_and_keeps_what_matters() -> None:
    b = Builder()
    x, y = b.param(4, 8), b.param(4, 8)
    b("add", x, b.const(4, 8))
    one = cost_key(last(b))
    b("add", y, b.const(4, 8))
    assert cost_key(last(b)) == one
    for other in (Literal(1.0), x):
        b("add", x, other)
        assert cost_key(last(b)) != one
    b("softmax", x)
    one = cost_key(last(b))
    b("softmax", x, axis=0)
    assert cost_key(last(b)) != one


TRUE = CostModel(
    {
        **{name: Rates(500.0, 2000.0, 2.0) for name in FAMILIES},
        "matrix": Rates(50000.0, 9000.0, 5.0),
        "attention": Rates(8000.0, 3000.0, 40.0),
        "normalisation": Rates(3000.0, 7000.0, 11.0),
        "gelu": Rates(90.0, 7000.0, 6.0),
    },
    MODEL.transfer,
    "imaginary",
    "2026-01-01",
    "default",
)


def samples(noise: float, seed: int) -> list[tuple[Instr, float]]:
    """Instructions of many shapes, with the latencies of ``TRUE`` and relative noise."""
    rng = random.Random(seed)
    b = Builder()
    for rows in (1, 4, 32, 128, 512):
        for width in (16, 256, 1024):
            x = b.param(1, rows, width)
            for out in (16, 256, 2048):
                b("linear", x, b.const(out, width), None, None, act=rng.choice(["", "gelu"]))
            b.norm(x)
            b("add", x, x)
            b("gelu", x)
            b("exp", x)
            b("copy", x)
            q = b.param(1, max(1, width // 64), rows, 16)
            b("attention", q, q, q, None, scale=1.0)
    return [(i, TRUE.instr_cost(i) * rng.uniform(1 - noise, 1 + noise)) for i in b.body]


def test_fit_recovers_known_rates() -> None:
    found = fit(samples(0, 1), machine="imaginary", date="2026-01-02")
    assert found.method == "measured" and found.machine == "imaginary" and found.date == "2026-01-02"
    assert found.error is not None and found.error < 1e-3
    for name in ("matrix", "attention", "gelu"):
        assert found.of(name).overhead_us == pytest.approx(TRUE.of(name).overhead_us, rel=1e-2), name
    assert found.of("linear").flops_per_us == pytest.approx(50000, rel=0.02)
    assert found.of("linear").bytes_per_us == pytest.approx(9000, rel=0.02)
    assert found.of("gelu").flops_per_us == pytest.approx(90, rel=0.02)
    assert found.samples == len(samples(0, 1))


@pytest.mark.parametrize("seed", range(4))
def test_fit_under_noise_predicts_new_shapes(seed: int) -> None:
    found = fit(samples(0.15, seed), machine="imaginary", date="")
    assert found.error is not None and found.error < 0.15, f"seed {seed}"
    b = Builder()
    for rows in (16, 200):
        x = b.param(1, rows, 768)
        b("linear", x, b.const(768, 768), None, None)
        b.norm(x)
        b("gelu", x)
    for instr in b.body:
        expected = pytest.approx(TRUE.instr_cost(instr), rel=0.2)
        assert found.instr_cost(instr) == expected, f"seed {seed}: {instr.op}"


def test_what_was_not_measured_keeps_the_base() -> None:
    some = [(i, t) for i, t in samples(0, 1) if i.op == "linear" and not i.attrs["act"]]
    found = fit(some, machine="m", date="d")
    assert found.rates["attention"] == MODEL.rates["attention"] and found.transfer == MODEL.transfer
    assert found.rates["matrix"] != MODEL.rates["matrix"]
    assert fit([], machine="m", date="d").error is None


def test_samples_that_cannot_be() -> None:
    b = Builder()
    x = b("exp", b.param(4, 8))
    b("reshape", x, shape=(32,))
    for instr, time in ((b.body[0], 0.0), (b.body[0], float("nan")), (b.body[1], 1.0)):
        with pytest.raises(OptionError, match="no sample"):
            fit([(instr, time)], machine="m", date="d")


def test_file_round_trip(tmp_path: Path) -> None:
    found = fit(samples(0.1, 2), machine="imaginary", date="2026-01-02")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(found.to_json()))
    assert CostModel.load(path) == found
    assert CostModel.load("server") == MODEL == CostModel.from_json(MODEL.to_json())
    assert MODEL.method == "measured" and MODEL.error is not None


def test_the_shipped_calibrations_load_in_a_fresh_process() -> None:
    code = "from forgec.plan.cost import CostModel; CostModel.load('server'); CostModel.load('laptop')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_such_calibration() -> None:
    with pytest.raises(OptionError, match="no calibration 'nowhere'") as error:
        CostModel.load("nowhere")
    assert "laptop, server" in str(error.value.hint)


def _drop(record: dict[str, Any]) -> None:
    del record["rates"]["matrix"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: r.update(schema="other/1"),
        lambda r: r.pop("machine"),
        _drop,
        lambda r: r["rates"].update(warp=r["rates"]["matrix"]),
        lambda r: r["rates"]["matrix"].update(flops_per_us=0),
        lambda r: r["rates"]["matrix"].update(bytes_per_us=-1),
        lambda r: r["rates"]["matrix"].update(overhead_us=float("nan")),
        lambda r: r["rates"]["matrix"].update(speed=1),
        lambda r: r["transfer"].update(bytes_per_us="fast"),
        lambda r: r.update(rates=[]),
    ],
)
def test_damaged_calibration(damage: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    record = json.loads(json.dumps(MODEL.to_json()))
    damage(record)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(record))
    with pytest.raises(OptionError, match="is no calibration"):
        CostModel.load(path)


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(OptionError, match="is no calibration"):
        CostModel.load(path)


def test_larger_programs_cost_more() -> None:
    assert MODEL.program_cost(gpt2(layers=2)) < MODEL.program_cost(gpt2(layers=4))
    assert isinstance(gpt2(layers=1).main.body[0].operands[0], ConstRef)
