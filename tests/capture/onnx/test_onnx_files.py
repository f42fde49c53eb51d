"""What is wrong with a file is a typed error that names the place; nothing outside of its folder is read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_files import imported, save_graph

import forgec
from forgec.capture.onnx import OnnxModel, load_onnx
from forgec.errors import CaptureError, OptionError

X = {"x": np.ones((2, 4), np.float32)}


def node(op, inputs, outputs, name="", **attributes):
    return helper.make_node(op, inputs, outputs, name or f"the/{op}", **attributes)


def test_foreign_and_cut_files(tmp_path):
    path = save_graph(
        tmp_path / "m.onnx", [node("Add", ["x", "w"], ["y"])], X, ["y"], {"w": np.ones(4096, "f")}
    )
    content = path.read_bytes()
    for bad in (b"", b"PK\x03\x04 no model", content[: len(content) // 2], b"\x80\x04}."):
        path.write_bytes(bad)
        with pytest.raises(CaptureError, match="is not an ONNX file"):
            load_onnx(path)
    with pytest.raises(CaptureError, match="there is no file"):
        load_onnx(tmp_path / "absent.onnx")


def test_operators_on_codes_have_another_way(tmp_path):
    nodes = [node("QLinearAdd", ["x"] * 6, ["y"], domain="com.microsoft")]
    path = save_graph(tmp_path / "m.onnx", nodes, X, ["y"])
    with pytest.raises(CaptureError, match="QLinearAdd") as caught:
        imported(path, X)
    assert "quant_format=QDQ" in (caught.value.hint or "")


def test_all_unknown_operators_in_one_message(tmp_path):
    nodes = [
        node("Mystery", ["x"], ["a"], "one", domain="org.example"),
        node("Mystery", ["a"], ["b"], "two", domain="org.example"),
        node("NonMaxSuppression", ["b", "b"], ["y"]),
    ]
    path = save_graph(tmp_path / "m.onnx", nodes, X, ["y"])
    with pytest.raises(CaptureError) as caught:
        forgec.compile(path)
    message = str(caught.value)
    assert "3 nodes" in message and "opset 23" in message
    assert "org.example Mystery" in message and "2 times: 'one', 'two'" in message
    assert "ai.onnx NonMaxSuppression" in message


def test_graphs_that_are_not_well_formed(tmp_path):
    cases = {
        "cycle": [node("Add", ["x", "b"], ["a"]), node("Add", ["a", "x"], ["b"])],
        "nothing makes": [node("Add", ["x", "ghost"], ["b"])],
        "makes 'b' again": [node("Neg", ["x"], ["b"]), node("Abs", ["x"], ["b"])],
    }
    for message, nodes in cases.items():
        path = save_graph(tmp_path / "m.onnx", nodes, X, ["b"])
        with pytest.raises(CaptureError, match=message):
            load_onnx(path)
    path = save_graph(tmp_path / "m.onnx", [node("Neg", ["x"], ["b"])], X, ["b", "b"])
    with pytest.raises(CaptureError, match="the output 'b' is listed 2 times"):
        load_onnx(path)


def test_forms_and_shapes_that_cannot_be_imported(tmp_path):
    path = save_graph(
        tmp_path / "m.onnx", [node("Reshape", ["x", "n"], ["y"])], {**X, "n": np.array([8])}, ["y"]
    )
    with pytest.raises(CaptureError, match=r"onnx Reshape 'the/Reshape' .*depends on an input's values"):
        forgec.compile(path)
    path = save_graph(
        tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], X, ["y"], {"w": np.ones((3, 2), "f")}
    )
    with pytest.raises(CaptureError, match="onnx MatMul 'the/MatMul' cannot be computed"):
        forgec.compile(path)
    path = save_graph(tmp_path / "m.onnx", [node("Neg", ["x"], ["y"], wrong=1)], X, ["y"])
    with pytest.raises(CaptureError, match="attribute wrong"):
        forgec.compile(path)
    path = save_graph(
        tmp_path / "m.onnx", [node("Identity", ["x"], ["y"])], {"x": np.ones(2, np.complex64)}, ["y"]
    )
    with pytest.raises(CaptureError, match="COMPLEX64"):
        load_onnx(path)


def external(folder, **entries):
    """A model whose weight of [4] lies in another file."""
    path = save_graph(
        folder / "m.onnx", [node("Add", ["x", "w"], ["y"])], X, ["y"], {"w": np.arange(4, dtype="f")}
    )
    model = onnx.load(path)
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())
    return path


def test_external_weights_are_mapped_once(tmp_path):
    (tmp_path / "sub").mkdir()
    np.concatenate([np.zeros(3, "f"), np.arange(4, dtype="f")]).tofile(tmp_path / "sub" / "w.bin")
    path = external(tmp_path, location="sub/w.bin", offset=12, length=16)
    (y,) = imported(path, X)
    np.testing.assert_array_equal(y, X["x"] + np.arange(4))
    file = load_onnx(path)
    base = file.constants["w"]
    while not isinstance(base, np.memmap):
        base = base.base
    assert (
        file.external.array(onnx.load(path, load_external_data=False).graph.initializer[0])
        is file.constants["w"]
    )


def test_external_weights_stay_below_the_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret.bin"
    np.arange(4, dtype="f").tofile(secret)
    (folder / "link.bin").symlink_to(secret)
    (folder / "dir").symlink_to(tmp_path)
    for location in ("../secret.bin", str(secret), "link.bin", "dir/secret.bin", "a/../../secret.bin", ""):
        with pytest.raises(CaptureError, match=r"no place below|leads out"):
            load_onnx(external(folder, location=location))


def test_external_weights_of_the_wrong_size(tmp_path):
    np.arange(4, dtype="f").tofile(tmp_path / "w.bin")
    cases = [
        ({"location": "w.bin", "offset": 8}, "ends at byte 24"),
        ({"location": "w.bin", "length": 12}, "needs 16 bytes and has 12"),
        ({"location": "w.bin", "offset": -4}, "needs 16|ends at"),
        ({"location": "w.bin", "offset": "x"}, "no readable place"),
        ({"location": "gone.bin"}, "absent"),
    ]
    for entries, message in cases:
        with pytest.raises(CaptureError, match=message):
            load_onnx(external(tmp_path, **entries))


def test_stored_values_of_the_wrong_size(tmp_path):
    path = save_graph(tmp_path / "m.onnx", [node("Add", ["x", "w"], ["y"])], X, ["y"], {"w": np.ones(4, "f")})
    model = onnx.load(path)
    model.graph.initializer[0].dims[0] = 2**40
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CaptureError, match="'w' cannot be read"):
        load_onnx(path)


def test_functions_and_branches(tmp_path):
    """A model-local function is inlined; a branch is chosen by a condition over shapes."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    double = helper.make_function("own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], opsets[:1])
    typed = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4])  # noqa: E731
    then = helper.make_graph(
        [node("Add", ["t", "k"], ["u"])],
        "then",
        [],
        [typed("u")],
        [numpy_helper.from_array(np.ones(1, "f"), "k")],
    )
    other = helper.make_graph([node("Mystery", ["t"], ["v"], domain="own")], "else", [], [typed("v")])
    nodes = [
        node("Twice", ["x"], ["t"], domain="own"),
        node("Size", ["x"], ["n"]),
        node("Constant", [], ["c"], value_int=7),
        node("Greater", ["n", "c"], ["large"]),
        node("If", ["large"], ["y"], then_branch=then, else_branch=other),
    ]
    graph = helper.make_graph(nodes, "g", [typed("x")], [typed("y")])
    model = helper.make_model(graph, opset_imports=opsets, functions=[double], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    (y,) = imported(tmp_path / "m.onnx", X)
    np.testing.assert_array_equal(y, 2 * X["x"] + 1)


def test_open_dimensions(tmp_path):
    inputs = {"input_ids": np.zeros((1, 2), np.int64), "extra.1": np.zeros((1, 2, 3), np.float32)}
    dims = {"input_ids": ["batch", "sequence"], "extra.1": ["batch", "frames", 3]}
    nodes = [
        node("Gather", ["table", "input_ids"], ["e"]),
        node("ReduceSum", ["e", "ax"], ["s"], keepdims=1),
        node("ReduceSum", ["extra.1", "ax"], ["r"], keepdims=1),
        node("Add", ["s", "r"], ["y"]),
    ]
    constants = {"table": np.ones((7, 3), np.float32), "ax": np.array([1])}
    path = save_graph(tmp_path / "m.onnx", nodes, inputs, ["y"], constants, dims=dims)
    with pytest.raises(
        OptionError, match=r"leaves open: frames of 'extra\.1' \[batch, frames, 3\]"
    ) as caught:
        OnnxModel(path)
    assert "--shape" in str(caught.value)
    with pytest.raises(OptionError, match="one name is one size"):
        OnnxModel(path, shapes={"extra.1": (2, 5, 3), "input_ids": (1, 4)})
    model = OnnxModel(path, shapes={"extra.1": (2, 5, 3)}, tokens=6)
    assert model.shapes == {"input_ids": (2, 6), "extra.1": (2, 5, 3)}
    _, drawn = model.example_inputs(seed=1)
    assert list(drawn) == ["input_ids", "extra_1"]
    assert drawn["input_ids"].max() < 7 and drawn["extra_1"].dtype is torch.float32
    executable = forgec.compile(path, kwargs=drawn)
    assert executable(**drawn)["y"].shape == (2, 1, 3)


def test_quantised_pairs_round(tmp_path):
    """Activations through 8 bits, on values at which rounding shows."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["f"]),
        node("DequantizeLinear", ["w", "sw"], ["d"], "weight", axis=1),
        node("MatMul", ["f", "d"], ["y"]),
    ]
    constants = {
        "s": np.array(0.1, np.float32), "z": np.array(3, np.uint8), "sw": np.array([0.5, 0.25], np.float32),
        "w": np.array([[1, -2], [3, 4], [-5, 6], [7, 8]], np.int8),
    }  # fmt: skip
    x = np.array([[0.04, 0.06, -9.0, 99.0], [1.23, -0.17, 0.2, 3.3]], np.float32)
    path = save_graph(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], constants)
    executable = forgec.compile(path)
    assert executable.report.fidelity.reference.startswith("ONNX Runtime"), executable.report.warnings
    rounded = (np.clip(np.round(x / np.float32(0.1)) + 3, 0, 255) - 3) * np.float32(0.1)
    np.testing.assert_allclose(executable(x)["y"], rounded @ (constants["w"] * constants["sw"]), rtol=1e-5)


def test_what_sizes_fold_to_is_their_own(tmp_path):
    """Two sizes of one file have other constants where these come from shapes: y = x + (n - 1, ..., 1, 0)."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["n"]),
        helper.make_node("Sub", ["n", "one"], ["last"]),
        helper.make_node("Range", ["zero", "n", "one"], ["upwards"]),
        helper.make_node("Sub", ["last", "upwards"], ["downwards"]),
        helper.make_node("Cast", ["downwards"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "floats"], ["y"]),
    ]
    constants = {"zero": np.array(0), "one": np.array(1)}
    x = np.zeros((1, 16), np.float32)
    path = save_graph(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], constants, dims={"x": [1, "n"]})
    shapes = {"x": {1: forgec.Dim("n", 8, 16, 32)}}
    # What is behind an input counts in this model, so that padding would change it.
    buckets = forgec.compile_buckets(path, (), {"x": torch.from_numpy(x)}, dynamic_shapes=shapes, check=False)
    buckets.save(tmp_path / "m.forge")
    for found in (buckets, forgec.Buckets(tmp_path / "m.forge")):
        for n in (8, 16, 32):
            np.testing.assert_array_equal(found(x=np.ones((1, n), "f"))["y"], [np.arange(n, 0, -1)])
