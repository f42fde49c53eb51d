"""Weights whose numbers 16 bits hold stay in 16 bits, and nothing changes but the file and what a run reads."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiers import slow_after
from torch import nn

import forgec
from forgec.report.metrics import BOUND_MAX_ABS
from forgec.tensors import as_numpy

SEED = 20261201
KINDS = {"bf16": torch.bfloat16, "f16": torch.float16}


class Tower(nn.Module):
    """Repeated blocks with a fused projection, and a table that the head shares."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(64, 4, 128, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(64, 50, bias=False)
        self.head.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def tower(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(SEED)
    return Tower().eval().to(dtype)


def ids(seed: int) -> torch.Tensor:
    return torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(seed))


def formats(executable: forgec.Executable) -> list[str]:
    """Element types of the weights of all products and tables."""
    return [
        instr.operands[0 if "embedding" in instr.op else 1].type.dtype.value
        for instr in executable.plan.program.main.body
        if instr.op in ("linear", "linear_q", "embedding", "embedding_q")
    ]


def close_to(executable: forgec.Executable, wide: nn.Module, tolerance: float) -> None:
    for seed in (5, 6):
        with torch.no_grad():
            wanted = wide(ids(seed)).double().numpy()
        found = np.asarray(executable(ids(seed).numpy()), np.float64)
        assert np.abs(found - wanted).max() < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_16_bits(kind: str, tmp_path: Path) -> None:
    model = tower(KINDS[kind])
    executable = forgec.compile(model, (ids(0),))
    assert set(formats(executable)) == {kind}
    results_of_16_bits = 0.02 if kind == "bf16" else 0.003
    close_to(executable, copy.deepcopy(model).float(), results_of_16_bits)
    path, wide = tmp_path / "m.forge", tmp_path / "wide.forge"
    executable.save(path)
    forgec.compile(model, (ids(0),), weights="fp32").save(wide)
    assert path.stat().st_size < 0.7 * wide.stat().st_size
    with forgec.load(path) as loaded:
        np.testing.assert_array_equal(
            np.asarray(loaded(ids(3).numpy()), np.float32), np.asarray(executable(ids(3).numpy()), np.float32)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_f32_of_such_numbers(kind: str) -> None:
    """As checkpoints of 16 bits are that were loaded in f32: results stay within the bounds of f32."""
    model = tower(KINDS[kind]).float()
    executable = forgec.compile(model, (ids(0),))
    assert set(formats(executable)) == {kind}
    fidelity = executable.report.fidelity
    assert fidelity.passed and fidelity.bound_max_abs == BOUND_MAX_ABS
    close_to(executable, model, BOUND_MAX_ABS)


def test_other_models_stay_as_they_are() -> None:
    model = tower()
    assert set(formats(forgec.compile(model, (ids(0),)))) == {"f32"}
    with torch.no_grad():
        model.blocks[1].linear1.weight.copy_(model.blocks[1].linear1.weight.to(torch.bfloat16))
    executable = forgec.compile(model, (ids(0),))
    assert sorted(set(formats(executable))) == ["bf16", "f32"], "one of two blocks that are alike otherwise"
    close_to(executable, model, BOUND_MAX_ABS)


@pytest.mark.parametrize(
    ("weights", "found"), slow_after(2, [("fp32", "f32"), ("fp16", "f16"), ("bf16", "bf16")])
)
def test_the_format_that_is_asked_for(weights: str, found: str) -> None:
    model = tower(torch.bfloat16).float()
    executable = forgec.compile(model, (ids(0),), weights=weights)
    assert set(formats(executable)) == {found}
    fidelity = executable.report.fidelity
    assert fidelity.passed
    # Most numbers of bf16 are numbers of f16 as well, but small ones are not.
    assert (fidelity.bound_max_abs == BOUND_MAX_ABS) == (weights != "fp16")


def test_weights_in_two_types_beside_codes() -> None:
    model = tower(torch.float16)
    executable = forgec.compile(model, (ids(0),), weights="auto,*.linear1.*=int8,embed*=fp32")
    assert sorted(set(formats(executable))) == ["f16", "f32", "i8"]


def test_an_onnx_file_of_16_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    weight = rng.standard_normal((64, 48)).astype(np.float16)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [3, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [3, 48])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    executable = forgec.compile(path)
    assert formats(executable) == ["f16"]
    x = rng.standard_normal((3, 64)).astype(np.float16)
    found = np.asarray(next(iter(executable(x).values())), np.float64)
    wanted = np.maximum(x.astype(np.float64) @ weight.astype(np.float64), 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_weight_that_changes_is_not_looked_at() -> None:
    """A buffer that the model writes is a state and no weight."""

    class Learns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w: torch.Tensor
            self.register_buffer("w", torch.ones(8, 8))

        def forward(self, x):
            y = x @ self.w.T
            self.w.mul_(1.1)
            return y

    executable = forgec.compile(Learns().eval(), (torch.ones(2, 8),))
    x = as_numpy(torch.ones(2, 8))
    for factor in (1.0, 1.1, 1.1**2):
        np.testing.assert_allclose(executable(x), 8 * factor * np.ones((2, 8)), rtol=1e-6)
