"""What is read from a compile: the blob's own numbers, the log, the schedule, refusals; and the container."""

from __future__ import annotations

import json
import struct

import pytest
from forgec.backends.openvino.blob import metrics
from forgec.backends.openvino.compiler import Built
from forgec.backends.openvino.container import Code, Compiled
from forgec.backends.openvino.messages import clean, failures, translate
from forgec.backends.openvino.prediction import predict
from forgec.backends.prediction import Layer, Prediction

from forgec.errors import ArtifactError

LOG = """[INFO] 23:51:00.812 [analysis]   Estimated inference latency: 1709.58 us
[WARNING] [Energy] The following SHAVE operations are unsupported by VPUNN, which can influence the estimation: [builtin_Convert, builtin_Convert.convert_p01, builtin_Select]
[INFO]     VPUIP.NNDMA - 825 ops : Size - 38.76 MB
[INFO]       CMX2CMX - 132 ops : Size - 3.00 MB
[INFO]       CMX2DDR - 141 ops : Size - 7.00 MB
[INFO]       DDR2CMX - 552 ops : Size - 512.00 KB
"""


def blob(base: int = 900, ticks: int = 78772, section: bytes = b".perf.metrics") -> bytes:
    """An ELF file with one section of interest and its table of names."""
    names = b"\0" + section + b"\0.names\0"
    table = struct.pack("<IIII", base, 1, 2, 3) + struct.pack("<25Q", *[ticks] * 25)
    start, middle = 64, 64 + len(table)
    headers = [
        struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        struct.pack("<IIQQQQIIQQ", 1, 0, 0, 0, start, len(table), 0, 0, 0, 0),
        struct.pack("<IIQQQQIIQQ", 2 + len(section), 0, 0, 0, middle, len(names), 0, 0, 0, 0),
    ]
    head = bytearray(b"\x7fELF".ljust(64, b"\0"))
    struct.pack_into("<Q", head, 0x28, middle + len(names))
    struct.pack_into("<HHH", head, 0x3A, 64, len(headers), 2)
    return bytes(head) + table + names + b"".join(headers)


def test_latency_from_a_blob() -> None:
    found = metrics(blob())
    assert found is not None
    assert found.latency_us("4000") == pytest.approx(1995.9, abs=0.1)  # what the compiler's log said of it
    other = metrics(blob(base=700, ticks=38400))
    assert other is not None and other.latency_us("3720") == pytest.approx(1000 * 700 / 1300)
    assert metrics(blob(section=b".other")) is None


@pytest.mark.parametrize("data", [b"", b"PK\3\4", blob()[:100], blob()[:-70]])
def test_what_is_no_blob_is_said(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        metrics(data)


def test_a_prediction_joins_layers_to_the_users_model() -> None:
    events = [
        {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": "DMA"}},
        {"name": "process_name", "ph": "M", "pid": 5, "args": {"name": "Layers"}},
        {"name": "r7.linear.1", "ph": "X", "pid": 5, "ts": 1.5, "dur": 2.0, "args": {"Layer type": "MatMul"}},
        {"name": "r7.linear/dma", "ph": "X", "pid": 0, "ts": 0.0, "dur": 9.0, "args": {}},
        {"name": "fetch", "ph": "X", "pid": 5, "ts": 0.0, "dur": 1.0, "args": {}},
    ]
    built = Built(blob(), LOG, json.dumps({"traceEvents": events}).encode())
    found = predict(built, "4000", {"r7": "model.py:3"})
    assert found is not None
    assert found.layers == (
        Layer("r7.linear.1", "MatMul", 1.5, 2.0, "model.py:3"),
        Layer("fetch", "", 0.0, 1.0),
    )
    assert found.uncosted == ("Convert", "Select")
    assert found.ddr_bytes == (7 << 20) + (512 << 10)
    assert found.code_bytes == len(blob())


@pytest.mark.parametrize("schedule", [b"", b"not json", b"{}", b'{"traceEvents": [{}]}'])
def test_a_schedule_of_another_form_costs_only_the_layers(schedule: bytes) -> None:
    found = predict(Built(blob(), "", schedule), "4000", {})
    assert found is not None and found.layers == () and found.ddr_bytes is None


def test_code_survives_a_file_and_damage_is_said() -> None:
    prediction = Prediction(
        1.5, "a model", 10, None, None, 3, 1, ("Convert",), (Layer("a", "b", 0.0, 1.0, "c"),)
    )
    code = Code((Compiled(b"<xml/>", b"weights", b"blob"),), prediction)
    data = code.to_bytes()
    assert Code.from_bytes(data) == code and Code.prediction_of(data) == prediction
    assert data == code.to_bytes()
    for bad in (b"", data[:-30], Code((Compiled(b"", b"", b""),), None).to_bytes()[:20]):
        with pytest.raises(ArtifactError, match="damaged"):
            Code.from_bytes(bad)
    assert Code.from_bytes(Code((Compiled(b"x", b"y", b"z"),), None).to_bytes()).prediction is None


def test_refusals_are_found_and_translated() -> None:
    log = clean(
        "\x1b[36m[ERROR] 1:2 [x]\x1b[0m Upper bounds are not specified for node 'MatMul_74'\r\n@failed 2 compile\r\nmessage\r\nof two lines\r\n@end\r\n"
    )
    assert failures(log) == {2: "message\nof two lines"}
    said = translate(failures(log)[2], log)
    assert "give every dimension a size" in said and "MatMul_74" in said


@pytest.mark.parametrize(
    ("message", "wording"),
    [
        ("x\nFailed to find BLOCKED for 0", "more than 5 axes"),
        (
            "x\nnGraph ScatterNDUpdate node 'r1.scatter' has unsupported reduction type '1'",
            "a scatter must replace what it finds",
        ),
        ("Unsupported ConvertOp configuration: f16 -> bf16 on arch NPU40XX", "cannot convert f16 to bf16"),
        ("Unsupported data type 'f8e4m3'", "no element type f8e4m3"),
        ("something new\n", "something new"),
        ("Exception from a.cpp:1\nCompiler returned msg:\nthe real reason", "the real reason"),
        ("", "no message"),
    ],
)
def test_known_messages_have_our_words_and_unknown_ones_their_own(message: str, wording: str) -> None:
    assert wording in translate(message, "")
