"""Files in floats of 16 bits compute in f32 and keep the types of what they are given and give back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_files import save_graph

import forgec
from forgec.capture.onnx import OnnxModel


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def half_file(path, kind, inside: bool) -> None:
    """A file of that type; with f32 at both ends, or what it computes ``inside`` alone."""
    numpy_type = helper.tensor_dtype_to_np_dtype(kind)
    w = drawn(8, 8).numpy().astype(numpy_type)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=kind),
        helper.make_node("MatMul", ["h", "w"], ["m"], "the/MatMul"),
        helper.make_node("Add", ["m", "one"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"]),
        helper.make_node("Cast", ["p"], ["y"], to=TensorProto.FLOAT if inside else kind),
    ]
    ends = TensorProto.FLOAT if inside else kind
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", ends, (2, 8))],
        [helper.make_tensor_value_info("y", ends, (2, 8))],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.array(1, numpy_type), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("inside", [False, True], ids=["throughout", "inside"])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16], ids=["f16", "bf16"])
def test_files_of_onnx(tmp_path, kind, inside):
    path = tmp_path / "half.onnx"
    half_file(path, kind, inside)
    executable = forgec.compile(path)
    types = {i.op: i.results[0].type.dtype.value for i in executable.plan.program.main.body}
    assert {types[op] for op in types.keys() - {"cast"}} == {"f32"}
    leaf = executable.signature.results[0].type.dtype.value
    assert leaf == ("f32" if inside else {TensorProto.FLOAT16: "f16", TensorProto.BFLOAT16: "bf16"}[kind])
    x = drawn(2, 8) * 2
    half = helper.tensor_dtype_to_np_dtype(kind)
    given = x.numpy() if inside else x.numpy().astype(half)
    w = torch.from_numpy(drawn(8, 8).numpy().astype(half).astype(np.float32))
    wanted = torch.softmax(torch.from_numpy(given.astype(np.float32)) @ w + 1, -1).numpy()
    tolerance = 1e-6 if inside else float(torch.finfo(torch.bfloat16).eps)
    np.testing.assert_allclose(executable(given)["y"].astype(np.float32), wanted, atol=tolerance)


def test_scales_of_16_bits(tmp_path):
    """What is computed of stored tensors while a file is imported is f32 too."""
    codes = np.arange(-32, 32, dtype=np.int8).reshape(8, 8)
    path = save_graph(
        tmp_path / "m.onnx",
        [
            helper.make_node("DequantizeLinear", ["codes", "s"], ["w"]),
            helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
            helper.make_node("MatMul", ["h", "w"], ["m"], "the/MatMul"),
            helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
        ],
        {"x": np.zeros((2, 8), np.float32)},
        ["y"],
        {"codes": codes, "s": np.array(0.0999, np.float16)},
    )
    x = drawn(2, 8)
    with torch.no_grad():
        found = OnnxModel(path).module(x)["y"]
    wanted = x @ (torch.from_numpy(codes).float() * float(np.float16(0.0999)))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-5)
