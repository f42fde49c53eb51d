"""What a compile costs and gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import calibrate, compile_time, fidelity, fusion, memory, scaling
from .command import Job, Layers, Models, Repeat, Threads, Tokens, benchmark, say


@benchmark("compile")
def run_compile(
    models: Models = None,
    tokens: Tokens = 128,
    threads: Threads = 2,
    repeat: Repeat = 5,
    layers: Layers = None,
    memory: Annotated[bool, typer.Option(help="Measure peak memory too, in fresh processes.")] = True,
) -> Job:
    """Compile time: forgec, OpenVINO and ONNX Runtime, round-robin."""
    chosen = models or compile_time.MODELS
    settings = {"tokens": tokens, "threads": threads, "rounds": repeat, "layers": layers}

    def measure() -> Mapping[str, Any]:
        return compile_time.measure(
            chosen, tokens=tokens, threads=threads, repeat=repeat, layers=layers, memory=memory, say=say
        )

    return Job(settings, measure)


@benchmark("scaling")
def run_scaling(
    tokens: Tokens = 128,
    threads: Threads = 2,
    repeat: Repeat = 3,
    depth: Annotated[list[int] | None, typer.Option(min=1, help="Layers; give it several times.")] = None,
) -> Job:
    """Growth of forgec's phases with the number of layers."""
    settings = {"tokens": tokens, "threads": threads, "rounds": repeat}

    def measure() -> Mapping[str, Any]:
        return scaling.measure(
            depths=depth or scaling.DEPTHS, tokens=tokens, threads=threads, repeat=repeat, say=say
        )

    return Job(settings, measure)


@benchmark("memory")
def run_memory(
    models: Models = None,
    tokens: Tokens = 128,
    threads: Threads = 2,
    layers: Layers = None,
) -> Job:
    """Peak memory of compile, save, load and first run."""
    settings = {"tokens": tokens, "threads": threads, "layers": layers}

    def measure() -> Mapping[str, Any]:
        chosen = models or memory.MODELS
        return memory.measure(chosen, tokens=tokens, threads=threads, layers=layers, say=say)

    return Job(settings, measure)


@benchmark("fidelity")
def run_fidelity(
    models: Models = None,
    tokens: Annotated[list[int] | None, typer.Option(min=1, help="Lengths; give it several times.")] = None,
    threads: Threads = 2,
    layers: Layers = None,
) -> Job:
    """Difference from eager PyTorch, nodes and memory plan of every preset."""
    lengths = tuple(tokens or fidelity.TOKENS)
    settings = {"tokens": lengths, "seeds": fidelity.SEEDS, "threads": threads}

    def measure() -> Mapping[str, Any]:
        chosen = models or fidelity.MODELS
        return fidelity.measure(chosen, tokens=lengths, threads=threads, layers=layers, say=say)

    return Job(settings, measure)


@benchmark("fusion")
def run_fusion(
    models: Models = None,
    tokens: Tokens = 128,
    threads: Threads = 2,
    repeat: Repeat = 15,
    layers: Layers = None,
    calibration: Annotated[Path | None, typer.Option(help="Another calibration than the default.")] = None,
) -> Job:
    """Fusion Gain Ratio: estimated, and measured."""
    settings = {"tokens": tokens, "threads": threads, "rounds": repeat, "layers": layers}
    record = None if calibration is None else calibrate.load(calibration)

    def measure() -> Mapping[str, Any]:
        return fusion.measure(
            models or fusion.MODELS,
            tokens=tokens,
            threads=threads,
            rounds=repeat,
            layers=layers,
            calibration=record,
            say=say,
        )

    return Job(settings, measure)
