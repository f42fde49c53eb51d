"""The code of a segment as bytes: it comes back as it was, and damage is a typed error."""

from __future__ import annotations

import random

import pytest
from forgec.backends.qnn.container import Container, pack, unpack
from forgec.backends.qnn.edge import Port

from forgec.errors import BackendError
from forgec.ir.types import DType, TensorType

SEED = 7
CODE = Container(
    compiler="compiler 1",
    soc=60,
    inputs=(Port(0, "in0", TensorType(DType.I32, (1, 8))),),
    outputs=(Port(9, "out9", TensorType(DType.F16, (8, 4))), Port(11, "out11", TensorType(DType.BOOL, ()))),
    tables={0: 100},
    prediction={"us": 1.5},
    files={"context.onnx": b"model", "context.bin": bytes(range(256))},
)


def test_it_comes_back_as_it_was() -> None:
    assert unpack(pack(CODE)) == CODE


def test_files_can_be_left_out() -> None:
    found = unpack(pack(CODE), files=False)
    assert not found.files and found.prediction == CODE.prediction


def test_equal_code_is_equal_bytes() -> None:
    assert pack(CODE) == pack(unpack(pack(CODE)))


@pytest.mark.parametrize("kept", [0, 7, 15, 40, -1])
def test_a_truncated_one_is_refused(kept: int) -> None:
    with pytest.raises(BackendError, match="damaged"):
        unpack(pack(CODE)[:kept])


def test_bytes_too_many_are_refused() -> None:
    with pytest.raises(BackendError, match="damaged"):
        unpack(pack(CODE) + b"x")


@pytest.mark.parametrize("name", ["../x.onnx", "a/b", ".hidden", "a\\b"])
def test_a_file_that_is_a_path_is_refused(name: str) -> None:
    bad = pack(Container("c", 1, (), (), {}, None, {name: b""}))
    with pytest.raises(BackendError, match="path"):
        unpack(bad)


def test_random_damage_of_the_head_is_a_typed_error_or_unseen() -> None:
    rng = random.Random(SEED)
    whole = pack(CODE)
    for _ in range(300):
        data = bytearray(whole)
        data[rng.randrange(len(whole) - 261)] ^= 1 << rng.randrange(8)
        try:
            unpack(bytes(data))
        except BackendError:
            continue
