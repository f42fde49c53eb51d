"""``forgec bench`` with --against and --calibrate: what it hands to the benchmarks, and its errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from forgec.bench import calibrate, latency, tools

from forgec.plan.cost import CostModel


@pytest.mark.slow
def test_beside_eager(forgec) -> None:
    flags = ("--tokens", 8, "--against", "eager", "--repeat", 5, "--format", "json")
    result = forgec("bench", "-m", "gpt2-tiny", *flags)
    assert result.exit_code == 0, result.stderr
    (found,) = json.loads(result.stdout)["models"].values()
    assert list(found["tools"]) == ["forgec", "eager"] and not found["failures"]
    assert found["tools"]["eager"]["over_forgec"]["median"] > 0
    assert found["tools"]["forgec"]["max_abs"] < 2.1e-5


@pytest.mark.parametrize(
    ("peers", "names"),
    [
        ("all", ("forgec", *tools.BASELINES)),
        ("onnxruntime, eager", ("forgec", "onnxruntime", "eager")),
        ("openvino-int8", ("forgec-int8", "openvino-int8")),
    ],
)
def test_the_tools_that_take_turns(peers, names, forgec, monkeypatch) -> None:
    asked: dict[str, Any] = {}

    def measure(models: list[str], **settings: Any) -> tuple[dict[str, Any], list[Any]]:
        asked.update(settings, models=models)
        return {"models": {models[0]: {"tools": {}, "failures": {}, "cei": []}}}, []

    monkeypatch.setattr(latency, "measure", measure)
    result = forgec("bench", "-m", "minilm", "--threads", 3, "--repeat", 50, "--against", peers)
    assert result.exit_code == 0, result.stderr
    assert (asked["models"], asked["names"], asked["threads"]) == (["minilm"], names, 3)
    assert asked["rounds"] * asked["burst"] == 50


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("-m", "minilm", "--against", "tensorrt"), "tensorrt"),
        (("a.forge", "--against", "all"), "give it with -m"),
        (("-m", "model.pt2", "--against", "all"), "every tool"),
        (("-m", "minilm", "--against", "all", "--shape", "x=1,2"), "--shape is for ONNX files"),
        (("-m", "minilm", "--against", "all", "-t", "hexagon-v73"), "leave out --input and --target"),
        (("-m", "minilm", "--calibrate", "mine.json"), "give it alone"),
    ],
)
def test_bad_input_says_what_to_try(argv, says, forgec) -> None:
    result = forgec("bench", *argv)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_calibration_is_written_for_compile_to_use(forgec, tmp_path, monkeypatch) -> None:
    found = CostModel.load().to_json()
    monkeypatch.setattr(calibrate, "measure", lambda **settings: {"calibration": found, "errors": {}})
    result = forgec("bench", "--calibrate", tmp_path / "mine.json")
    assert result.exit_code == 0, result.stderr
    assert f"costs={tmp_path / 'mine.json'}" in result.stderr
    assert CostModel.load(tmp_path / "mine.json") == CostModel.load()
    monkeypatch.setattr(calibrate, "measure", lambda **settings: pytest.fail("measured before the refusal"))
    result = forgec("bench", "--calibrate", tmp_path / "none" / "mine.json")
    assert result.exit_code == 2 and "there is no directory" in result.stderr
