"""From a file to the first outputs, in a fresh process each time.

Each tool compiles the model once and writes the file that it loads fastest. Then processes take turns: import
the tool, load and run a tiny model's file, and only then, against the clock, open the file and run once.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .client import Worker, WorkerError
from .round_robin import Say, turns
from .session import model_inputs, model_label
from .stats import Summary, round_ratios
from .tables import Table, mib, ms, ratio, spread

__all__ = ["MODELS", "NAME", "TITLE", "Loading", "Writing", "measure", "tables"]

NAME = "load"
TITLE = "From a file to the first outputs"
MODELS = ("gpt2", "bert-base")
TOOLS = ("forgec", "forgec, digests unchecked", "openvino", "onnxruntime")

_WRITERS = {"forgec": "forgec", "forgec, digests unchecked": "forgec"}
"""Tools that open another one's file."""


class Writing:
    """What the worker serves that compiles and writes a file."""

    def write(
        self, tool: str, model: str, tokens: int, layers: int | None, threads: int, folder: str
    ) -> dict[str, Any]:
        """The file to load and the bytes of all files that it needs."""
        import torch

        from forgec import models

        torch.set_num_threads(threads)
        loaded = models.load(model, layers=layers)
        inputs = model_inputs(loaded, tokens, 0)
        before = set(Path(folder).rglob("*"))
        path = _WRITE[tool](loaded.module, inputs, threads, Path(folder))
        np.savez(Path(folder) / f"{path.stem}.npz", **{name: x.numpy() for name, x in inputs.items()})
        made = [p for p in Path(folder).rglob("*") if p not in before and p.suffix != ".npz" and p.is_file()]
        return {"path": str(path), "bytes": sum(p.stat().st_size for p in made)}


class Loading:
    """What the worker serves that loads and runs: a process without PyTorch."""

    def warm_up(self, tool: str, path: str, threads: int) -> None:
        """Import the tool, load a tiny model's file and run it."""
        self.first_output(tool, path, threads)

    def first_output(self, tool: str, path: str, threads: int) -> dict[str, Any]:
        """Milliseconds to load and to run once, and resident bytes before and after."""
        import psutil

        with np.load(Path(path).with_suffix(".npz")) as stored:
            inputs = dict(stored)
        gc.collect()
        before = psutil.Process().memory_info().rss
        start = perf_counter()
        run = _LOAD[tool](path, inputs, threads)
        loaded = perf_counter()
        kept = run()
        done = perf_counter()
        after = psutil.Process().memory_info().rss
        del kept
        return {
            "load_ms": (loaded - start) * 1000,
            "ms": (done - start) * 1000,
            "rss": after - before,
        }


def _write_forgec(module: Any, inputs: dict[str, Any], threads: int, folder: Path) -> Path:
    import forgec

    path = folder / f"{_name(module)}.forge"
    forgec.compile(module, (), inputs).save(path)
    return path


def _write_openvino(module: Any, inputs: dict[str, Any], threads: int, folder: Path) -> Path:
    import openvino
    import torch

    with torch.no_grad():
        model = openvino.convert_model(torch.export.export(module, (), dict(inputs)))
    path = folder / f"{_name(module)}.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    core = openvino.Core()
    core.set_property({"CACHE_DIR": str(folder / "cache")})
    core.compile_model(path, "CPU", _openvino_settings(threads))
    return path


def _write_onnxruntime(module: Any, inputs: dict[str, Any], threads: int, folder: Path) -> Path:
    import onnxruntime
    import torch

    source, path = folder / f"{_name(module)}-source.onnx", folder / f"{_name(module)}.onnx"
    with torch.no_grad():
        program = torch.onnx.export(module, (), kwargs=dict(inputs), dynamo=True, verbose=False)
    assert program is not None
    program.save(source, external_data=True)
    options = _onnxruntime_options(threads)
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", f"{path.name}.data"
    )
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    for left in folder.glob(f"{source.name}*"):
        left.unlink()
    return path


def _name(module: Any) -> str:
    return f"{type(module).__name__}-{sum(p.numel() for p in module.parameters())}"


def _load_forgec(
    path: str, inputs: Mapping[str, np.ndarray], threads: int, check: bool = True
) -> Callable[[], Any]:
    import forgec

    executable = forgec.load(path, verify_weights=check)
    return lambda: executable(**inputs)


def _load_forgec_unchecked(path: str, inputs: Mapping[str, np.ndarray], threads: int) -> Callable[[], Any]:
    return _load_forgec(path, inputs, threads, check=False)


def _load_openvino(path: str, inputs: Mapping[str, np.ndarray], threads: int) -> Callable[[], Any]:
    import openvino

    core = openvino.Core()
    core.set_property({"CACHE_DIR": str(Path(path).parent / "cache")})
    compiled = core.compile_model(path, "CPU", _openvino_settings(threads))
    request = compiled.create_infer_request()
    feeds = [
        next(inputs[name] for name in sorted(port.get_names()) if name in inputs) for port in compiled.inputs
    ]
    return lambda: request.infer(feeds, share_inputs=True, share_outputs=True)


def _load_onnxruntime(path: str, inputs: Mapping[str, np.ndarray], threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = _onnxruntime_options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {node.name: inputs[node.name] for node in session.get_inputs()}
    return lambda: session.run(None, feeds)


def _openvino_settings(threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }


def _onnxruntime_options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return options


_WRITE: dict[str, Callable[[Any, dict[str, Any], int, Path], Path]] = {
    "forgec": _write_forgec,
    "openvino": _write_openvino,
    "onnxruntime": _write_onnxruntime,
}
_LOAD: dict[str, Callable[[str, Mapping[str, np.ndarray], int], Callable[[], Any]]] = {
    "forgec": _load_forgec,
    "forgec, digests unchecked": _load_forgec_unchecked,
    "openvino": _load_openvino,
    "onnxruntime": _load_onnxruntime,
}


def measure(
    models: Sequence[str],
    *,
    tokens: int,
    threads: int,
    repeat: int,
    say: Say,
    layers: int | None = None,
) -> dict[str, Any]:
    """Milliseconds and bytes of every load by model, tool and round."""
    found: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for model in models:
        with Worker(Loading, threads) as host:  # its folder holds the files
            files, failed = _write_all(model, tokens, layers, threads, host.folder, say)
            os.sync()  # no write that is left over runs beside a load
            failures.update(failed)
            found[model_label(model, layers)] = _race(files, threads, repeat, say)
    return {"models": found, "failures": failures}


def _write_all(
    model: str, tokens: int, layers: int | None, threads: int, folder: Path, say: Say
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    files: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    for tool in _WRITE:
        say(f"{model}: {tool} writes its file")
        (folder / tool).mkdir()
        common: dict[str, Any] = {"tool": tool, "threads": threads, "folder": str(folder / tool)}
        try:
            with Worker(Writing, threads) as worker:
                tiny = worker.call(
                    "write", model=f"{model.removesuffix('-tiny')}-tiny", tokens=16, layers=None, **common
                )
                files[tool] = worker.call("write", model=model, tokens=tokens, layers=layers, **common)
                files[tool]["tiny"] = tiny["path"]
        except WorkerError as error:
            failures[f"{model}, {tool}"] = str(error).splitlines()[0]
    return files, failures


def _race(files: Mapping[str, Mapping[str, Any]], threads: int, repeat: int, say: Say) -> dict[str, Any]:
    names = [tool for tool in TOOLS if _WRITERS.get(tool, tool) in files]
    rounds: dict[str, list[dict[str, Any]]] = {tool: [] for tool in names}
    for order in turns(names, repeat):
        for tool in order:
            file = files[_WRITERS.get(tool, tool)]
            with Worker(Loading, threads) as worker:
                worker.call("warm_up", tool=tool, path=file["tiny"], threads=threads)
                rounds[tool].append(
                    worker.call("first_output", tool=tool, path=file["path"], threads=threads)
                )
            say(f"round {len(rounds[tool])}/{repeat}: {tool} {rounds[tool][-1]['ms']:.0f} ms")
    return {
        tool: {
            "bytes": files[_WRITERS.get(tool, tool)]["bytes"],
            **{key: [round(one[key], 1) for one in found] for key in ("load_ms", "ms", "rss")},
        }
        for tool, found in rounds.items()
    }


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One row per model and tool."""
    rows = []
    for label, by_tool in data["models"].items():
        times = {tool: found["ms"] for tool, found in by_tool.items()}
        for tool, found in by_tool.items():
            over = "-" if tool == "forgec" else ratio(round_ratios(times, tool, "forgec").median)
            rows.append(
                (
                    label,
                    tool,
                    ms(Summary.of(found["ms"]).median),
                    spread(min(found["ms"]), max(found["ms"])),
                    over,
                    ms(Summary.of(found["load_ms"]).median),
                    mib(Summary.of(found["rss"]).median),
                    mib(found["bytes"]),
                )
            )
    columns = (
        "model", "tool", ">to first outputs ms", ">min - max ms", ">over forgec", ">of it loading ms", ">RSS",
        ">file",
    )  # fmt: skip
    notes = [f"Without {name}: {reason}." for name, reason in data["failures"].items()]
    return [Table("Load to first outputs, measured", columns, rows, notes)]
