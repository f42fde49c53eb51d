"""NPUs, as their vendors' compilers simulate them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from . import npu
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
