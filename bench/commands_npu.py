"""NPUs, as their vendors' compilers simulate them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import calibrate, npu, npu_rates
from .command import Job, Layers, Models, Tokens, benchmark, say


@benchmark("npu")
def run_npu(
    models: Models = None,
    target: Annotated[
        list[str] | None, typer.Option("-t", "--target", help="Several times for several.")
    ] = None,
    tokens: Tokens = 128,
    layers: Layers = None,
) -> Job:
    """Intel's NPUs, simulated: forgec folded and not, against OpenVINO's conversion."""
    chosen, targets = models or npu.MODELS, target or npu.TARGETS

    def measure() -> Mapping[str, Any]:
        return npu.measure(chosen, targets, tokens=tokens, layers=layers, say=say)

    return Job({"tokens": tokens, "layers": layers}, measure)


@benchmark("npu-rates")
def run_npu_rates(
    target: Annotated[str, typer.Option("-t", "--target", help="An NPU.")] = "intel-npu4000",
    every: Annotated[int, typer.Option(min=1, help="Take only every n-th case.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Compilers at a time.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Write the calibration to this JSON file.")] = None,
) -> Job:
    """Fit the cost model of an NPU to what its vendor's compiler simulates."""

    def measure() -> Mapping[str, Any]:
        data = npu_rates.measure(target, every=every, jobs=jobs, say=say)
        if out is not None:
            out.write_text(calibrate.text(data), encoding="utf-8")
        return data

    return Job({"target": target, "every": every}, measure)
