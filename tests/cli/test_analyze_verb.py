"""analyze: groups, reasons, shares and the exit code under --strict."""

import json
import sys
from dataclasses import asdict

import pytest
from cli_toy import toy
from forgec.backends.base import DEFAULTS
from forgec.backends.cpu import CpuBackend
from forgec.backends.null import NullBackend
from forgec.backends.prediction import Repeat
from report_samples import sample

from forgec.cli.analyze import analyse_plan, fold_prices
from forgec.errors import UnsupportedOpError
from forgec.plan.cost import FAMILIES, CostModel, Rates
from forgec.plan.plan import BY_COST
from forgec.report.compose import refuse_fallbacks
from forgec.report.report import Verdict


def split_toy():
    """The toy on a device that refuses gelu, where the CPU is too slow to be worth it."""
    backends = {
        "null": NullBackend(refuses=("gelu",), pretend=True, cost_us=0.0),
        "cpu": CpuBackend(cost=lambda instr: 1e6),
    }
    return toy(selftest=False, backend=backends.__getitem__, target="null")


def test_all_on_one_device():
    found = analyse_plan(toy().plan)
    assert (found.target, found.instructions, found.off_target) == ("cpu", 5, 0)
    assert {g.op: g.count for g in found.groups} == {"embedding": 1, "linear": 2, "gelu": 1, "add": 1}
    assert sum(g.flops_share for g in found.groups) == pytest.approx(1.0)
    assert found.flops_share == {"cpu": pytest.approx(1.0)}
    assert found.estimated_us["cpu"] == pytest.approx(sum(g.estimated_us for g in found.groups))
    # linear [4,8]x[8,8] and [4,8]x[8,9] of all.
    linear = next(g for g in found.groups if g.op == "linear")
    assert linear.flops_share > 0.8
    assert all(g.code is None for g in found.groups)


def test_costs_of_another_calibration(tmp_path):
    slow = CostModel.load().to_json()
    for rates in slow["rates"].values():
        rates["overhead_us"] = 1e6
    path = tmp_path / "slow.json"
    path.write_text(json.dumps(slow))
    assert (
        analyse_plan(toy().plan, str(path)).estimated_us["cpu"]
        > 5e6
        > analyse_plan(toy().plan).estimated_us["cpu"]
    )


def test_reasons_of_what_is_off_the_target():
    found = analyse_plan(split_toy().plan)
    off = [g for g in found.groups if g.code is not None]
    assert found.off_target == found.refused == sum(g.count for g in off) == 1
    assert (off[0].op, off[0].device, off[0].code) == ("gelu", "cpu", "refused")
    assert off[0].reason == "the null backend was told to refuse gelu"
    assert off[0].source == "aten.gelu, model.py:6, act"
    assert off[0].fix == "let the CPU run it"
    assert found.groups[-1] is off[0]
    assert set(found.flops_share) == {"cpu", "null"}


def test_what_the_target_refuses_is_an_error_under_strict():
    plan = split_toy().plan
    refuse_fallbacks(plan, strict=False)
    with pytest.raises(UnsupportedOpError, match="1 instructions cannot run on null") as caught:
        refuse_fallbacks(plan, strict=True)
    assert "1 x gelu on cpu" in caught.value.what and caught.value.exit_code == 3


def test_text_json_and_strict(forgec, fake_compile, monkeypatch):
    result = forgec("analyze", "-m", "toy", "--strict")
    assert result.exit_code == 0, result.stderr
    assert "everything on cpu" in result.stdout
    assert "estimated" in result.stdout
    assert "not on" not in result.stdout
    forgec("analyze", "-m", "toy", "--weights", "int8", "-q")
    assert [call["options"].weights for call in fake_compile.calls] == ["auto", "int8"]

    monkeypatch.setattr(sys.modules["forgec.compile"], "compile", lambda *args, **more: split_toy())
    result = forgec("analyze", "-m", "toy", "-t", "null", "--strict", "-q")
    assert result.exit_code == 3
    assert "not on null" in result.stdout
    assert "aten.gelu, model.py:6, act" in result.stdout
    assert "let the CPU run it" in result.stdout
    result = forgec("analyze", "-m", "toy", "-t", "null,null", "--format", "json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert [t["off_target"] for t in document["targets"]] == [1, 1]


def test_what_is_off_the_target_by_choice_is_said(forgec, fake_compile, monkeypatch):
    backends = {"null": NullBackend(pretend=True, cost_us=1e9), "cpu": CpuBackend(cost=lambda instr: 1.0)}
    executable = toy(selftest=False, backend=backends.__getitem__, target="null")
    monkeypatch.setattr(sys.modules["forgec.compile"], "compile", lambda *args, **more: executable)
    result = forgec("analyze", "-m", "toy", "-t", "null", "--strict", "-q")
    assert result.exit_code == 0, result.stderr
    assert "0 of 5 on null, 5 are faster elsewhere;" in " ".join(result.stdout.split())
    found = analyse_plan(executable.plan)
    assert {g.code for g in found.groups} == {BY_COST} and (found.off_target, found.refused) == (5, 0)
    refuse_fallbacks(executable.plan, strict=True)
    monkeypatch.setattr(sys.modules["forgec.compile"], "compile", lambda *args, **more: split_toy())
    assert "elsewhere" not in forgec("analyze", "-m", "toy", "-t", "null", "-q").stdout


def test_times_are_those_of_the_device_and_the_verdict_is_said(forgec, fake_compile, monkeypatch):
    slow = {name: Rates(1e3, 1e9, 0.0) for name in FAMILIES}
    device = CostModel(slow, CostModel.load().transfer, "device-model", "d", "simulated", on_chip=True)
    monkeypatch.setattr(CostModel, "on", lambda self, backend: device if backend.name == "null" else self)
    plan = split_toy().plan
    found = analyse_plan(plan)
    linears = [i for i in plan.program.main.body if i.op == "linear"]
    linear = next(g for g in found.groups if g.op == "linear")
    assert linear.estimated_us == pytest.approx(sum(device.instr_cost(i) for i in linears))
    assert set(found.calibration) == {"null", "cpu"} and "device-model" in found.calibration["null"]

    said = Verdict("null", "2.0 x as fast: it was simulated", 1.0, 2.0, 1.0)
    executable = split_toy()
    monkeypatch.setattr(type(executable), "report", sample(verdict=said, warnings=["no prediction"]))
    monkeypatch.setattr(sys.modules["forgec.compile"], "compile", lambda *args, **more: executable)
    result = forgec("analyze", "-m", "toy", "-t", "null", "-q")
    assert result.stdout.splitlines()[-2:] == [f"null, {said.sentence}", "warning: no prediction"]
    result = forgec("analyze", "-m", "toy", "-t", "null", "--format", "json")
    assert json.loads(result.stdout)["targets"][0]["verdict"]["placed_us"] == 1.0
    assert json.loads(result.stdout)["targets"][0]["warnings"] == ["no prediction"]


def test_what_folding_would_cost_is_asked_of_the_target():
    repeat = Repeat("4 instructions, linear to add", 3, False, "not asked for", 30.0, 20.0, 10, 90, 1.0, 3.0)

    class Repeating(NullBackend):
        def fold_prices(self, segments, constants, settings=DEFAULTS):
            assert [instr.op for program in segments for instr in program.main.body]
            return [repeat]

    backends = {"null": Repeating(pretend=True, cost_us=0.0), "cpu": CpuBackend(cost=lambda instr: 1e6)}
    (found,) = fold_prices(toy(selftest=False, backend=backends.__getitem__, target="null"))
    assert asdict(found) == asdict(repeat)
    assert fold_prices(toy(selftest=False)) == []


def test_the_programs_of_a_language_model(forgec):
    model = ("analyze", "-m", "llama-3.2-1b-tiny", "--context", "32")
    result = forgec(*model, "--chunk", "8", "--format", "json", "-q")
    assert result.exit_code == 0, result.stderr
    targets = json.loads(result.stdout)["targets"]
    assert [(t["target"], t["program"]) for t in targets] == [("cpu", "decode"), ("cpu", "prefill.8")]
    assert all("attention" in {g["op"] for g in t["groups"]} for t in targets)
    assert "llama-3.2-1b-tiny, decode on cpu" in forgec(*model, "--chunk", "8", "-q").stdout
    for flags, words in (
        ((*model, "--tokens", "8"), "--context and --chunk give all sizes"),
        ((*model, "--part", "encoder"), "models of one part"),
        (("analyze", "-m", "gpt2-tiny", "--chunk", "8"), "--chunk is for models that write text"),
    ):
        result = forgec(*flags)
        assert result.exit_code == 2 and words in " ".join(result.stderr.split())
