"""Reading the vendor's profile of a compile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forgec.backends.qnn.prediction import from_dict, placed, read_profile

from forgec.errors import BackendError

TABLE = """Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier
0,FINALIZE,23195,US,BACKEND,ROOT,QNN (finalize) time
0,BACKEND,3000,CYCLES,BACKEND,SUB-EVENT,Simulated (Accelerator exec cycles)
0,BACKEND,2900,CYCLES,BACKEND,SUB-EVENT,Simulated (Accelerator exec cycles (lower estimate))
0,BACKEND,3300,CYCLES,BACKEND,SUB-EVENT,Simulated (Accelerator exec cycles (upper estimate))
0,BACKEND,2,US,BACKEND,SUB-EVENT,Simulated (Accelerator exec time us)
0,BACKEND,100,BYTES,BACKEND,SUB-EVENT,Input Fill
0,BACKEND,20,BYTES,BACKEND,SUB-EVENT,Intermediate Fill
0,BACKEND,30,BYTES,BACKEND,SUB-EVENT,Intermediate Spill
0,BACKEND,7,BYTES,BACKEND,SUB-EVENT,Output Spill
0,BACKEND,1,US,BACKEND,SUB-EVENT,Missing Ops (Number of Ops with no Costs associated)
0,BACKEND,0,US,BACKEND,SUB-EVENT,r8.not : OpId_18
"""
TRACE = {
    "traceEvents": [
        {"ph": "M", "name": "thread_name", "tid": 1, "args": {"name": "HVX 1:"}},
        {"ph": "C", "name": "TCM usage", "ts": 0, "args": {"Bytes": 512}},
        {"ph": "C", "name": "TCM usage", "ts": 5, "args": {"Bytes": 2048}},
        {"ph": "C", "name": "TCM allocated", "ts": 5, "args": {"Bytes": 9999}},
        {"ph": "X", "name": "q::A", "tid": 1, "ts": 1500, "dur": 300, "args": {"id": "0x9900000011"}},
        {"ph": "X", "name": "q::B", "tid": 1, "ts": 1800, "dur": 300, "args": {"id": "0x9a00000011"}},
        {"ph": "X", "name": "q::C", "tid": 1, "ts": 2400, "dur": 600, "args": {"id": "0x9b00000012"}},
        {"ph": "X", "name": "q::D", "tid": 1, "ts": 2400, "dur": 0, "args": {"id": "0x9b00000012"}},
    ],
    "Hextimate Configuration": {"sim_core_freq": 1500.0},
}
NAMES = "x\nqnn_name_translations = {\n0x0000000000000011: 'r5.gemm',\n0x0000000000000012: 'r8.not',\n}\n"
SOURCES = {5: "aten.linear, model.py:5, mlp", 8: "aten.not, model.py:9"}


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    (tmp_path / "profile.csv").write_text(TABLE)
    (tmp_path / "profile_qnn.log").write_bytes(
        b"\xff\x00 { noise " + json.dumps(TRACE).encode() + b"\x00tail"
    )
    (tmp_path / "g_schematic.bin").write_text(NAMES)
    return tmp_path


def test_figures_and_layers(profile: Path) -> None:
    stored = read_profile(profile, SOURCES, 77)
    assert stored is not None
    found = from_dict(json.loads(json.dumps(stored)), "CHIP")
    assert found.latency_us == 2.0
    assert found.method == "the vendor's model of CHIP: 3,000 cycles (2,900 to 3,300)"
    assert (found.ddr_bytes, found.spill_bytes, found.on_chip_bytes, found.code_bytes) == (157, 50, 2048, 77)
    assert found.uncosted == ("r8.not (aten.not, model.py:9)",)
    layers = [(x.name, x.engine, x.start_us, x.duration_us, x.source) for x in found.layers]
    assert layers == [
        ("r5.gemm", "HVX 1", 1.0, 0.4, SOURCES[5]),
        ("r8.not", "HVX 1", 1.6, 0.4, SOURCES[8]),
    ]


def test_places_are_those_of_whoever_asks(profile: Path) -> None:
    """Of the same model from other lines, as a cache has it."""
    stored = read_profile(profile, SOURCES, 77)
    assert stored is not None and placed(stored, SOURCES) == stored
    moved = {5: "aten.linear, other.py:6", 8: ""}
    found = placed(stored, moved)
    assert [layer[-1] for layer in found["layers"]] == [moved[5], ""]
    assert found["uncosted"] == ["r8.not ()"]
    assert placed(found, SOURCES) == stored


def test_a_trace_that_is_cut_off_leaves_the_figures(profile: Path) -> None:
    log = profile / "profile_qnn.log"
    log.write_bytes(log.read_bytes()[:200])
    stored = read_profile(profile, SOURCES, 77)
    assert stored is not None and stored["layers"] == [] and stored["us"] == 2.0


def test_no_estimate_is_no_prediction(tmp_path: Path) -> None:
    assert read_profile(tmp_path, SOURCES, 77) is None
    (tmp_path / "profile.csv").write_text(TABLE.splitlines()[0] + "\n")
    assert read_profile(tmp_path, SOURCES, 77) is None


@pytest.mark.parametrize("damage", [{"cycles": [1]}, {"us": "x"}, {"layers": [[1]]}])
def test_a_damaged_prediction_is_a_typed_error(profile: Path, damage: dict) -> None:
    stored = read_profile(profile, SOURCES, 77)
    assert stored is not None
    with pytest.raises(BackendError, match="damaged"):
        from_dict({**stored, **damage}, "CHIP")
