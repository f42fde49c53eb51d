"""What the benchmark of Hexagon does in processes of their own, one per compile.

``python -m bench.hexagon_tasks TASK JSON`` prints one line of JSON as its last: ``own`` compiles a preset
with forgec, ``export`` writes the peer's ONNX files, ``peer`` compiles one of them with ONNX Runtime's QNN
provider.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

__all__ = ["TASKS"]

_FINALIZED = "QNN (finalize) time"
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


def own(
    model: str, target: str, layers: int | None, fold: str = "off", predict: bool = True, seeds: int = 1
) -> list[dict[str, Any]]:
    """Compiles of a preset with forgec, one for every seed of random weights, as one row each.

    Processes of the vendor's compiler run one at a time here, so that their seconds can be told apart.
    """
    import torch
    from forgec.backends.qnn import compiler

    import forgec
    from forgec import models

    loaded = models.load("bert-base-tiny")
    forgec.compile(loaded.module, (), loaded.example_inputs(tokens=8)[1], target="cpu")  # imports
    spent = {"build": 0.0, "estimate": 0.0}
    run_all = compiler.run_all

    def timed(jobs: Any, settings: Any, cancel: Any = None) -> Any:
        outcomes = run_all(jobs, settings, cancel)
        for job, outcome in zip(jobs, outcomes, strict=True):
            spent[job.folder.name] += outcome.seconds
        return outcomes

    compiler.run_all = timed
    rows = []
    for seed in range(seeds):
        spent.update(build=0.0, estimate=0.0)
        loaded = load(model, layers, seed=seed)
        inputs = loaded.example_inputs()[1]
        start = perf_counter()
        with torch.no_grad():
            options: dict[str, Any] = {"fold": fold, "check": False, "jobs": 1, "predict": predict}
            executable = forgec.compile(loaded.module, (), inputs, target=target, **options)
        seconds = perf_counter() - start
        rows.append({**_compiled(executable, target), "seconds": seconds, "vendor": dict(spent)})
    return rows


def _compiled(executable: Any, target: str) -> dict[str, Any]:
    from forgec.backends.qnn import container

    from forgec.ir.op import get

    found = executable.report.predictions
    devices = {
        i: segment.device
        for i, segment in enumerate(executable.plan.segments)
        if any(
            not get(instr.op).view and instr.op != "copy"  # transfers are copies of the host's
            for instr in executable.shared.segments[i].main.body
        )
    }
    codes = [executable.shared.code(i) for i, device in devices.items() if device == target]
    told = [
        prediction
        for code in codes
        if not container.is_folded(code)
        and (prediction := container.unpack(code, files=False).prediction) is not None
    ]
    return {
        "us": sum(p.latency_us for p in found),
        "cycles": sum(prediction["cycles"][1] for prediction in told),
        "ddr": sum(p.ddr_bytes or 0 for p in found),
        "spill": sum(p.spill_bytes or 0 for p in found),
        "uncosted": sum(prediction["uncosted_count"] for prediction in told),
        "code": sum(map(len, codes)),
        "partitions": len(codes),
        "islands": len(devices) - len(codes),
        "transitions": max(0, len(devices) - 1),
    }


def export(model: str, layers: int | None, to: str, dtype: str) -> dict[str, Any]:
    """``torch.onnx.export(dynamo=True)`` of the same module on the same inputs."""
    import torch

    loaded = load(model, layers, dtype)
    inputs = loaded.example_inputs()[1]
    start = perf_counter()
    with torch.no_grad():
        program = torch.onnx.export(loaded.module, (), kwargs=dict(inputs), dynamo=True, verbose=False)
    assert program is not None
    program.save(str(Path(to) / "model.onnx"), external_data=True)
    return {"seconds": perf_counter() - start}


def peer(model: str, soc: int) -> dict[str, Any]:
    """A compile by ONNX Runtime as its documentation has it: all graph optimisations, finalisation mode 3.

    ``soc`` has a performance model. The profile lists all graphs compiled so far whenever one is done, so
    the last ``partitions`` entries are one of each.
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
        "profiling_level": "detailed",
        "profiling_file_path": "profile.csv",
    }
    options.add_provider_for_devices(devices[:1], provider)
    start = perf_counter()
    session = ort.InferenceSession(model, options, enable_fallback=0)
    seconds = perf_counter() - start
    parts = session.get_provider_graph_assignment_info()
    on = sum(part.ep_name == name for part in parts)
    off = [node.op_type for part in parts if part.ep_name != name for node in part.get_nodes()]
    graphs = _graphs(Path("profile.csv"))[-on:]
    found = {key: sum(graph.get(label, 0) for graph in graphs) for key, label in _FIELDS.items()}
    return {
        "seconds": seconds,
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
