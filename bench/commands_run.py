"""What a run costs on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import calibrate, convolutions, kernels, latency, load_time, tools
from .command import Job, Layers, Models, Repeat, Threads, Tokens, benchmark, say


@benchmark("latency")
def run_latency(
    models: Models = None,
    tokens: Tokens = 128,
    threads: Threads = 2,
    repeat: Repeat = 5,
    burst: Annotated[int, typer.Option(min=1, help="Timed runs of a tool in one round.")] = 10,
    layers: Layers = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences in one run.")] = 1,
    int8: Annotated[bool, typer.Option("--int8", help="forgec's and the peers' own int8.")] = False,
    reports: Annotated[
        Path | None, typer.Option(help="Folder for forgec's reports, with the CEI filled in.")
    ] = None,
) -> Job:
    """Latency against eager, OpenVINO, ONNX Runtime and torch.compile; CEI."""
    chosen = models or latency.MODELS
    names = tools.INT8 if int8 else ("forgec", *tools.BASELINES, tools.YARDSTICK)
    settings = {"tokens": tokens, "threads": threads, "rounds": repeat, "burst": burst, "layers": layers}

    def measure() -> Mapping[str, Any]:
        data, made = latency.measure(
            chosen,
            tokens=tokens,
            threads=threads,
            rounds=repeat,
            burst=burst,
            layers=layers,
            batch=batch,
            names=names,
            say=say,
        )
        for found in made if reports is not None else []:
            assert reports is not None
            found.save(reports / f"{found.model}.json")
        return data

    return Job(settings, measure)


@benchmark("load")
def run_load(
    models: Models = None,
    tokens: Tokens = 128,
    threads: Threads = 2,
    repeat: Repeat = 5,
    layers: Layers = None,
) -> Job:
    """From a file to the first outputs in a fresh process: forgec, OpenVINO, ONNX Runtime."""
    settings = {"tokens": tokens, "threads": threads, "rounds": repeat, "layers": layers}

    def measure() -> Mapping[str, Any]:
        chosen = models or load_time.MODELS
        return load_time.measure(
            chosen, tokens=tokens, threads=threads, repeat=repeat, layers=layers, say=say
        )

    return Job(settings, measure)


@benchmark("kernels")
def run_kernels(
    threads: Threads = 2,
    repeat: Repeat = 9,
) -> Job:
    """Products with compressed weights against f32, the memory's bandwidth and the arithmetic's peak."""

    def measure() -> Mapping[str, Any]:
        return kernels.measure(threads=threads, rounds=repeat, say=say)

    return Job({"threads": threads, "rounds": repeat}, measure)


@benchmark("convolutions")
def run_convolutions(threads: Threads = 1, repeat: Repeat = 11) -> Job:
    """Convolutions alone against eager PyTorch's."""

    def measure() -> Mapping[str, Any]:
        return convolutions.measure(threads=threads, rounds=repeat, say=say)

    return Job({"threads": threads, "rounds": repeat}, measure)


@benchmark("calibrate")
def run_calibrate(
    threads: Threads = 2,
    every: Annotated[int, typer.Option(min=1, help="Take only every n-th case of each op.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the calibration to this JSON file.")] = None,
) -> Job:
    """Fit the cost model to the CPU backend's kernels on this machine."""

    def measure() -> Mapping[str, Any]:
        data = calibrate.measure(threads=threads, every=every, say=say)
        if out is not None:
            out.write_text(calibrate.text(data), encoding="utf-8")
        return data

    return Job({"threads": threads, "every": every}, measure)
