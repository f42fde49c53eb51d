"""Weights in the layout of the kernels: mapped as they are, readable by every runtime, repacked if need be."""

from __future__ import annotations

import numpy as np
import pytest
from executable_toy import example, toy
from forgec.backends.cpu.native import binding, compressed
from forgec.backends.packing import packed_type, split_name, stored_name, unpack

from forgec.errors import ArtifactError
from forgec.executable import load
from forgec.executable.archive import WEIGHTS
from forgec.executable.reader import Archive
from forgec.ir.types import DType, TensorType

INPUTS = example()


def _no_packing(*_: object) -> None:
    raise AssertionError("a weight was packed")


FORMATS = ["fp32", "bf16", "int8", "w8a8", "int4", "int4:32"]


@pytest.fixture(params=FORMATS)
def weights(request) -> str:
    return request.param


@pytest.fixture
def saved(tmp_path, weights):
    path = tmp_path / "toy.forge"
    toy(weights=weights).save(path)
    return path


def test_a_load_maps_packed_weights_and_makes_no_copy(saved, weights, monkeypatch) -> None:
    expected = toy(weights=weights).run_flat(INPUTS)
    monkeypatch.setattr(binding, "pack", _no_packing)
    exe = load(saved)
    for got, want in zip(exe.run_flat(INPUTS), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    derived = exe.shared.constants.derived
    assert len(derived) == 3 and not any(array.flags.owndata for array in derived.values())


def test_a_compressed_table_that_is_the_head_too_is_stored_once(tmp_path) -> None:
    toy(weights="int8").save(tmp_path / "toy.forge")
    stored = load(tmp_path / "toy.forge").shared.constants.derived
    codes = [name for name, array in stored.items() if array.shape == (1, 3 * 128)]
    assert len(codes) == 3 and all(name.endswith("i8.panel32x4") for name in codes)
    every = Archive(tmp_path / "toy.forge").tensors(WEIGHTS)
    assert not any(array.dtype == np.int8 for array in every.values())


def test_the_numpy_runtime_reads_packed_weights(saved, weights, monkeypatch) -> None:
    monkeypatch.setenv("FORGEC_ISA", "portable")  # others may round attention beside weights of w8a8
    expected = toy(weights=weights).run_flat(INPUTS)
    monkeypatch.setenv("FORGEC_CPU", "numpy")
    for got, want in zip(load(saved).run_flat(INPUTS), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_weights_in_another_layout_are_packed_again(tmp_path, monkeypatch) -> None:
    expected = toy().run_flat(INPUTS)

    def pack_by_5(instr, operand, matrix):
        padded = np.zeros((-(-matrix.shape[0] // 5) * 5, matrix.shape[1]), np.float32)
        padded[: len(matrix)] = matrix
        return np.ascontiguousarray(padded.reshape(-1, 5, matrix.shape[1]).transpose(0, 2, 1))

    with monkeypatch.context() as patch:
        patch.setattr(binding, "packing", lambda dtype, isa: "f32.panel5")
        patch.setattr(binding, "pack", pack_by_5)
        toy().save(tmp_path / "other.forge")
    exe = load(tmp_path / "other.forge")
    for got, want in zip(exe.run_flat(INPUTS), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    exe.save(tmp_path / "again.forge")
    toy().save(tmp_path / "first.forge")
    assert (tmp_path / "again.forge").read_bytes() == (tmp_path / "first.forge").read_bytes()


def test_unpack_is_the_way_back() -> None:
    plain = TensorType(DType.F32, (50, 3))
    panels = np.arange(2 * 3 * 48, dtype=np.float32).reshape(2, 3, 48)
    assert TensorType.of(panels) == packed_type("f32.panel48", plain)
    matrix = unpack("f32.panel48", panels, plain)
    assert matrix.shape == (50, 3) and matrix[49, 2] == panels[1, 2, 1] and matrix[7, 1] == panels[0, 1, 7]


@pytest.mark.parametrize("dtype", [DType.I8, DType.I4, DType.BF16])
@pytest.mark.parametrize("shape", [(1, 2), (32, 8), (50, 30), (70, 16)])
def test_unpack_is_the_way_back_from_codes(dtype, shape) -> None:
    rng = np.random.default_rng(0)
    plain = TensorType(dtype, shape)
    data = rng.integers(0, 256, plain.nbytes, np.uint8)
    codes = data.view(dtype.numpy).reshape(plain.array_shape)
    packed = compressed.pack(codes)
    layout = compressed.LAYOUTS[dtype]
    assert TensorType.of(packed) == packed_type(layout, plain)
    back = unpack(layout, packed, plain)
    assert TensorType.of(back) == plain
    np.testing.assert_array_equal(back.view(np.uint8), codes.view(np.uint8))


@pytest.mark.parametrize("shape", [(2, 1), (3, 32), (4, 70)])
def test_unpack_is_the_way_back_from_scales(shape) -> None:
    scales = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    packed, plain = compressed.pack_scales(scales), TensorType.of(scales)
    assert TensorType.of(packed) == packed_type(compressed.SCALES, plain)
    np.testing.assert_array_equal(unpack(compressed.SCALES, packed, plain), scales)


def test_names_and_unknown_layouts() -> None:
    assert split_name(stored_name("a.b as c", "f32.panel48")) == ("a.b as c", "f32.panel48")
    assert split_name("a.b") == ("a.b", "")
    for layout in ("f64.panel3", "f32.panel3x4", "i8.panel32", "i4.panel32x4"):
        with pytest.raises(ArtifactError, match=f"'{layout}' are unknown"):
            packed_type(layout, TensorType(DType.F32, (2, 2)))
    with pytest.raises(ArtifactError, match="cannot have the layout"):
        packed_type("i8.panel32x4", TensorType(DType.F32, (2, 2)))
    with pytest.raises(ArtifactError, match="cannot have the layout"):
        packed_type("f32.panel48", TensorType(DType.F32, (2,)))
    with pytest.raises(ArtifactError, match="cannot have the layout"):
        packed_type("f32.columns32", TensorType(DType.BF16, (2, 2)))
