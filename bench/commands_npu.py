"""NPUs, as their vendors' compilers simulate them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from . import npu, npu_hexagon
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


@benchmark(npu_hexagon.NAME)
def run_hexagon(
    models: Models = None,
    target: Annotated[
        list[str] | None, typer.Option("-t", "--target", help="Several times for several.")
    ] = None,
    layers: Layers = None,
    folded: Annotated[
        bool, typer.Option("--folded/--no-folded", help="Fold the deep models as well.")
    ] = True,
) -> Job:
    """Qualcomm's Hexagon, simulated: forgec against ONNX Runtime's QNN provider."""
    chosen, targets = models or npu_hexagon.MODELS, target or npu_hexagon.TARGETS
    deep = npu_hexagon.FOLDED if folded else ()

    def measure() -> Mapping[str, Any]:
        return npu_hexagon.measure(chosen, targets, layers=layers, folded=deep, say=say)

    return Job({"layers": layers or f"{npu_hexagon.LAYERS}, MiniLM all"}, measure)
