"""What workers serve, called directly on the smallest models: what they return, never how long it took."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench import fidelity, fusion, memory, scaling, tools
from bench.session import Session, model_inputs
from bench.tools.base import by_name

torch = pytest.importorskip("torch", reason="runs where forgec[compile] is installed")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_session_compiles_runs_and_compares() -> None:
    session = Session()
    assert session.open("forgec", 1) is None
    nbytes = session.load("bert-base-tiny", 8)
    compiled = session.compile()
    assert set(compiled["stages"]) == {*scaling.PHASES}
    assert compiled["ms"] >= sum(compiled["stages"].values()) > 0
    assert len(session.run(3)) == 3
    assert session.difference() < 2.1e-5
    text = session.report()
    assert text is not None and '"forgec.report/1"' in text
    session.release()
    measured = session.compile_memory()
    assert measured["peak"] >= measured["before"] > nbytes > 0


def test_eager_is_its_own_reference_and_reports_nothing() -> None:
    session = Session()
    session.open("eager", 1)
    session.load("minilm-tiny", 8)
    session.compile()
    assert session.difference() == 0.0
    assert session.report() is None


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["forgec", "onnxruntime", "openvino"])
def test_tools_that_read_onnx_files_take_them_as_they_are(tool: str, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")
    x = helper.make_tensor_value_info("a.x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([helper.make_node("MatMul", ["a.x", "w"], ["y"])], "g", [x], [y], [weight])
    path = tmp_path / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    session = Session()
    assert session.open(tool, 1) is None
    assert session.load(str(path), None, shapes={"a.x": [2, 4]}) == 48
    stages = session.compile()["stages"]
    assert not {"torch.export", "torch.onnx.export", "save"} & set(stages)
    assert session.difference() < 1e-5
    assert session._compiled.arrays(session._run())[0].shape == (2, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["product.onnx"]


@pytest.mark.slow
def test_the_yardstick_does_the_models_arithmetic_and_no_more() -> None:
    session = Session()
    session.open(tools.YARDSTICK, 1)
    session.load("minilm-tiny", 8)
    session.compile()
    module = session._module
    parameters = sum(
        p.numel() for n, p in module.named_parameters() if p.dim() == 2 and "embeddings" not in n
    )
    products = 2 * 8 * parameters  # without those of attention, and with all rows in the pooler
    assert session._run() == pytest.approx(products, rel=0.2)
    assert session.difference() is None
    assert len(session.run(3)) == 3


def test_every_tool_is_found_by_name() -> None:
    assert {*tools.COMPILERS, *tools.BASELINES, *tools.INT8, tools.YARDSTICK} == set(tools.names())
    assert all(isinstance(tools.get(name), tools.Tool) for name in tools.names())


def test_inputs_follow_the_tools_own_order() -> None:
    inputs = {"ids": torch.tensor([1]), "mask": torch.tensor([2]), "types": torch.tensor([3])}
    found = by_name([["types:0", "types"], ["13"], ["ids"]], inputs)
    assert [int(a[0]) for a in found] == [3, 2, 1]


def test_unknown_input_names_take_what_is_left_in_order() -> None:
    inputs = {"a": torch.tensor([1]), "b": torch.tensor([2]), "c": torch.tensor([3])}
    assert [int(x[0]) for x in by_name([["12"], ["b"], ["14"]], inputs)] == [1, 2, 3]


def test_own_phases_are_all_but_capture_and_check() -> None:
    counts = {name: 1.0 for name in (*scaling.PHASES, "nodes", "instructions")}
    found = scaling._summary(
        [{**counts, "passes": 9.0}, {**counts, "planning": 4.0}], dict.fromkeys(counts, 1)
    )
    assert found["ms"]["own"] == 7.0
    assert found["ms"]["passes"] == found["ms"]["planning"] == 1.0
    assert found["calls"]["own"] == 4


def test_lengths_are_cut_to_what_the_model_takes() -> None:
    from forgec import models

    gpt2, vit = models.load("gpt2-tiny"), models.load("vit-base-tiny")
    assert model_inputs(gpt2, 4096, 0)["input_ids"].shape == (1, 64)
    assert set(model_inputs(vit, 128, 0)) == {"pixel_values"}


def test_calls_are_counted_by_phase() -> None:
    def work() -> None:
        pass

    with scaling.counted_calls() as counter:
        work()  # before the first phase: not counted
        counter.begin("a")
        counter.calls["a"] = 0
        work()
        work()
        counter.begin("b")
        work()
    assert counter.calls["a"] == 2 + 1  # and the call of begin itself
    assert counter.calls["b"] >= 1


@pytest.mark.slow
def test_every_phase_of_a_compile_is_counted() -> None:
    from forgec import models

    service = scaling.Scaling()
    service._models = {1: models.load("minilm-tiny", layers=2)}
    counts = service.calls(1, "full", 8)
    assert tuple(counts) == scaling.PHASES
    assert min(counts.values()) > 100


@pytest.mark.slow
def test_fidelity_of_a_tiny_model() -> None:
    service = fidelity.Fidelity()
    assert service.load("t5-small.encoder-tiny", None, "sdpa", 1)["tokens"]
    found = service.measure(8, [1])
    assert found["passed"] and found["nodes"][0] > found["nodes"][1]


def test_fusion_compiles_both_levels() -> None:
    service = fusion.Fusion()
    service.load("gpt2-tiny", 8, None, "sdpa", 1)
    unfused, fused = service.instructions()
    assert unfused > fused
    assert np.array(service.run(2)).shape == (2, 2)
    more, less = service.estimate(None)
    assert more > less > 0


@pytest.mark.slow
def test_memory_steps_follow_each_other(tmp_path: object) -> None:
    path = f"{tmp_path}/m.forge"
    compiling, running = memory.Compiling(), memory.Running()
    found = compiling.compile("minilm-tiny", 8, None, 1, check=False)
    assert found["peak"] >= found["before"] and found["arena"] > 0
    assert compiling.save(path)["file"] > found["model"]
    running.load(path)
    assert running.first_run()["peak"] > 0
