"""What the benchmark of Hexagon does in processes of their own, one per compile.

``python -m bench.hexagon_tasks TASK JSON`` prints one line of JSON as its last: ``own`` compiles a preset
with forgec, ``export`` writes the peer's ONNX files, ``peer`` compiles one of them with ONNX Runtime's QNN
provider. Seconds are of the wall, "cpu" those of processors, of this process and all below it.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

__all__ = ["TASKS"]

_FINALIZED = "QNN (finalize) time"
_LARGE = 1 << 29
"""Bytes of a model in f32 from which that is not tried: the vendor's compiler runs out of memory."""
_FIELDS = {
    "us": "Simulated (Accelerator exec time us)",
    "cycles": "Simulated (Accelerator exec cycles)",
    "input": "Input Fill",
    "output": "Output Spill",
    "spill": "Intermediate Spill",
    "fill": "Intermediate Fill",
    "uncosted": "Missing Ops (Number of Ops with no Costs associated)",
}


def load(model: str, layers: int | None, dtype: str = "float32", seed: int = 0) -> Any:
    """A preset; MiniLM with its real weights where their package is installed."""
    from forgec.models.packaged import sentence_encoder_dir

    from forgec import models
    from forgec.errors import ModelError

    spec = model
    if model == "minilm":
        try:
            spec = str(sentence_encoder_dir())
        except ModelError as error:
            print(f"random weights: {error}", file=sys.stderr)
    return models.load(spec, layers=layers, dtype=dtype, seed=seed)


def inputs_of(loaded: Any, looked_up: bool) -> dict[str, Any]:
    """Example inputs of a preset; ``looked_up`` for rows in place of the ids of words."""
    import torch

    inputs = dict(loaded.example_inputs()[1])
    if looked_up:
        ids = inputs.pop("input_ids")
        inputs["inputs_embeds"] = torch.zeros(
            *ids.shape, loaded.config.hidden_size, dtype=loaded.module.dtype
        )
    return inputs


@contextmanager
def _clock(spent: dict[str, float]) -> Iterator[None]:
    """Add what is done inside to ``spent``: seconds, and "cpu", which counts what has ended by then."""

    def processors() -> float:
        return sum(os.times()[:4])

    start, busy = perf_counter(), processors()
    try:
        yield
    finally:
        spent["seconds"] = spent.get("seconds", 0.0) + perf_counter() - start
        spent["cpu"] = spent.get("cpu", 0.0) + processors() - busy


def own(
    model: str,
    target: str,
    layers: int | None,
    fold: str = "off",
    predict: bool = True,
    seeds: int = 1,
    looked_up: bool = False,
) -> list[dict[str, Any]]:
    """Compiles of a preset with forgec, one for every seed of random weights, as one row each.

    The host's costs are such that all that the NPU takes is on it, as at the peer. Processes of the vendor's
    compiler run one at a time here, so that their seconds can be told apart.
    """
    import torch
    from forgec.backends.qnn import compiler

    import forgec
    from forgec import models

    spent: dict[str, dict[str, float]] = {}
    run_all = compiler.run_all

    def timed(jobs: Any, settings: Any, cancel: Any = None) -> Any:
        outcomes = []
        for job in jobs:
            with _clock(spent.setdefault(job.folder.name, {})):
                outcomes += run_all([job], settings, cancel)
        return outcomes

    compiler.run_all = timed
    options: dict[str, Any] = {
        "fold": fold,
        "check": False,
        "jobs": 1,
        "predict": predict,
        "costs": _all_on_the_npu(),
        "target": target,
    }
    loaded = models.load("bert-base-tiny")
    forgec.compile(loaded.module, (), loaded.example_inputs(tokens=8)[1], **options)  # imports
    rows = []
    for seed in range(seeds):
        spent.clear()
        loaded = load(model, layers, seed=seed)
        inputs = inputs_of(loaded, looked_up)
        total: dict[str, float] = {}
        with torch.no_grad(), _clock(total):
            executable = forgec.compile(loaded.module, (), inputs, **options)
        rows.append({**_compiled(executable, target), **total, "vendor": dict(spent)})
    return rows


def _all_on_the_npu() -> str:
    """The path of host's costs at which every transfer is worth it."""
    from forgec.plan.cost import CostModel

    record = CostModel.load().to_json()
    record["transfer"] = {"bytes_per_us": 1e9, "overhead_us": 1e-4}
    for rates in record["rates"].values():
        rates["overhead_us"] = 1e5
    path = Path("costs.json").resolve()
    path.write_text(json.dumps(record))
    return str(path)


def _compiled(executable: Any, target: str) -> dict[str, Any]:
    from forgec.backends.qnn import container

    found = executable.report.predictions
    shared = executable.shared
    devices = _devices(executable.plan, shared.segments)
    codes = [shared.code(i) for i, device in devices.items() if device == target]
    told = [asked for code in codes for asked in _predictions(code, container)]
    return {
        "us": sum(p.latency_us for p in found),
        "cycles": sum(prediction["cycles"][1] for prediction in told),
        "ddr": sum(p.ddr_bytes or 0 for p in found),
        "spill": sum(p.spill_bytes or 0 for p in found),
        "uncosted": sum(prediction["uncosted_count"] for prediction in told),
        "code": sum(map(len, codes)),
        **_counts(devices, target),
        "operators": _off(executable.plan),
        "by_default": _placed(shared.program, target),
        "repeats": [asdict(repeat) for p in found for repeat in p.repeats],
    }


def _predictions(code: bytes, container: Any) -> list[dict[str, Any]]:
    """What is predicted of every call that code consists of."""
    from forgec.backends.vendor.calls import from_bytes

    if not container.is_folded(code):
        called = [code]
    else:
        folded = container.unpack_folded(code)
        called = [folded.parts[call.part] for call in from_bytes(folded.calls, len(folded.parts))]
    found = [container.unpack(part, files=False).prediction for part in called]
    return [prediction for prediction in found if prediction is not None]


def _devices(plan: Any, segments: Any) -> dict[int, str]:
    """The device of every segment that computes something."""
    from forgec.ir.op import get

    return {
        i: segment.device
        for i, segment in enumerate(plan.segments)
        if any(
            not get(instr.op).view and instr.op != "copy"  # transfers are copies of the host's
            for instr in segments[i].main.body
        )
    }


def _counts(devices: Mapping[int, str], target: str) -> dict[str, int]:
    on = sum(device == target for device in devices.values())
    return {"partitions": on, "islands": len(devices) - on, "transitions": max(0, len(devices) - 1)}


def _off(plan: Any) -> list[str]:
    """The instructions that a plan has on the host, for a reason."""
    return [plan.program.main.body[i].op for i in sorted(plan.reasons)]


def _placed(program: Any, target: str) -> dict[str, Any]:
    """Where the program runs at the costs that forgec ships."""
    from forgec.backends import get

    from forgec.executable.segments import segment_programs
    from forgec.ir.in_place import flatten
    from forgec.plan.planner import make_plan

    flat = flatten(program, off_host=True)
    plan = make_plan(flat, backends=[get(target), get("cpu")], target=target)
    return {**_counts(_devices(plan, segment_programs(plan)), target), "operators": _off(plan)}


def export(model: str, layers: int | None, to: str, dtype: str, looked_up: bool = False) -> dict[str, Any]:
    """``torch.onnx.export(dynamo=True)`` of the same module on the same inputs; large ones in f16 alone."""
    import torch

    from forgec import models

    tiny = models.load("bert-base-tiny")
    torch.onnx.export(tiny.module, (), kwargs=tiny.example_inputs(tokens=8)[1], dynamo=True, verbose=False)
    loaded = load(model, layers, dtype)
    size = sum(tensor.nbytes for tensor in {id(x): x for x in loaded.module.parameters()}.values())
    if dtype == "float32" and size > _LARGE:
        return {"refused": f"not tried at {size >> 20} MiB"}
    inputs = inputs_of(loaded, looked_up)
    spent: dict[str, Any] = {}
    with torch.no_grad(), _clock(spent):
        program = torch.onnx.export(loaded.module, (), kwargs=inputs, dynamo=True, verbose=False)
        assert program is not None
        program.save(str(Path(to) / "model.onnx"), external_data=True)
    return spent


def peer(model: str, soc: int, predict: bool = True) -> dict[str, Any]:
    """A compile by ONNX Runtime as its documentation has it: all graph optimisations, finalisation mode 3.

    With ``predict`` for a chip ``soc`` that has a performance model. The profile lists all graphs compiled so
    far whenever one is done, so the last ``partitions`` entries are one of each.
    """
    import onnxruntime as ort
    import onnxruntime_qnn

    name = "QNNExecutionProvider"
    ort.set_default_logger_severity(3)
    ort.register_execution_provider_library(name, onnxruntime_qnn.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
    devices.sort(key=lambda device: device.device.type != ort.OrtHardwareDeviceType.NPU)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    entries = {
        "session.record_ep_graph_assignment_info": "1",
        "ep.context_enable": "1",
        "ep.context_embed_mode": "0",
        "ep.context_file_path": "context.onnx",
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    provider = {
        "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
        "soc_model": str(soc),
        "htp_performance_mode": "burst",
        "htp_graph_finalization_optimization_mode": "3",
    }
    if predict:
        provider |= {"profiling_level": "detailed", "profiling_file_path": "profile.csv"}
    options.add_provider_for_devices(devices[:1], provider)
    spent: dict[str, float] = {}
    with _clock(spent):
        session = ort.InferenceSession(model, options, enable_fallback=0)
    parts = session.get_provider_graph_assignment_info()
    on = sum(part.ep_name == name for part in parts)
    off = [node.op_type for part in parts if part.ep_name != name for node in part.get_nodes()]
    graphs = _graphs(Path("profile.csv"))[-on:] if predict else []
    found = {key: sum(graph.get(label, 0) for graph in graphs) for key, label in _FIELDS.items()}
    return {
        **spent,
        "cycles": found["cycles"],
        "us": found["us"],
        "ddr": found["input"] + found["output"] + found["spill"] + found["fill"],
        "spill": found["spill"] + found["fill"],
        "uncosted": found["uncosted"],
        "code": sum(path.stat().st_size for path in Path().glob("*.bin")),
        "partitions": on,
        "islands": len(parts) - on,
        "operators": off,
        "transitions": _transitions(Path("context.onnx")),
    }


def _graphs(profile: Path) -> list[dict[str, int]]:
    """Numbers by label for every graph of a profile."""
    graphs: list[dict[str, int]] = []
    for row in csv.reader(profile.read_text(errors="replace").splitlines()):
        if len(row) > 6 and row[6] == _FINALIZED:
            graphs.append({})
        elif len(row) > 6 and graphs and row[2].strip().isdigit():
            graphs[-1][row[6].strip()] = int(row[2])
    return graphs


def _transitions(context: Path) -> int:
    """Tensors that a partition reads from ONNX Runtime's own nodes or they from it."""
    import onnx

    nodes = onnx.load(context, load_external_data=False).graph.node
    made = {name: node.op_type == "EPContext" for node in nodes for name in node.output if name}
    read = {(name, node.op_type == "EPContext") for node in nodes for name in node.input if name in made}
    return sum(made[name] != inside for name, inside in read)


TASKS: Mapping[str, Callable[..., Any]] = {"own": own, "export": export, "peer": peer}


def main() -> None:
    """Entry point: run one task and print what it returns."""
    task, given = sys.argv[1:]
    arguments: Mapping[str, Any] = json.loads(given)
    print(json.dumps(TASKS[task](**arguments)))


if __name__ == "__main__":
    main()
