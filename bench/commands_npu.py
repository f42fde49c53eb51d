"""NPUs, as their vendors' compilers simulate them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import calibrate, npu, npu_compile, npu_hexagon, npu_rates, npu_weights
from .command import Job, Layers, Models, Repeat, Tokens, benchmark, say

Targets = Annotated[list[str] | None, typer.Option("-t", "--target", help="Several times for several.")]


@benchmark("npu")
def run_npu(
    models: Models = None,
    target: Targets = None,
    tokens: Tokens = 128,
    layers: Annotated[int, typer.Option(min=1, help="Deeper models are cut to so many.")] = 4,
    fold: Annotated[bool, typer.Option("--fold", help="Folded too.")] = False,
) -> Job:
    """Intel's NPUs, simulated: forgec against OpenVINO's conversion."""
    chosen, targets = models or npu.MODELS, target or npu.TARGETS
    folds = ("off", "on") if fold else ("off",)

    def measure() -> Mapping[str, Any]:
        return npu.measure(chosen, targets, tokens=tokens, layers=layers, folds=folds, say=say)

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


@benchmark("npu-compile")
def run_npu_compile(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help=f"Some of {', '.join(npu_compile.MODELS)}."),
    ] = None,
    target: Annotated[str, typer.Option("-t", "--target")] = "intel-npu4000",
    tokens: Tokens = 128,
    past: Annotated[int, typer.Option(min=1, help="Tokens before a decode.")] = 1024,
    layers: Annotated[int, typer.Option(min=1, help="Blocks of the language model.")] = 16,
    repeat: Repeat = 1,
    unfolded: Annotated[bool, typer.Option(help="The language model by forgec without folding too.")] = True,
) -> Job:
    """Seconds of compiling for Intel's NPUs, against plain OpenVINO and NPUW."""
    settings = {"target": target, "tokens": tokens, "past": past, "layers": layers, "rounds": repeat}
    chosen = models or npu_compile.MODELS
    if unknown := set(chosen) - set(npu_compile.MODELS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))} is none of {', '.join(npu_compile.MODELS)}")

    def measure() -> Mapping[str, Any]:
        return npu_compile.measure(
            chosen,
            target=target,
            tokens=tokens,
            past=past,
            layers=layers,
            rounds=repeat,
            unfolded=unfolded,
            say=say,
        )

    return Job(settings, measure)


@benchmark("npu-weights")
def run_npu_weights(
    target: Targets = None,
    weights: Annotated[
        list[str] | None, typer.Option("-w", "--weights", help="Formats, several times for several.")
    ] = None,
    fold: Annotated[list[str] | None, typer.Option(help="Several times for several.")] = None,
    tokens: Annotated[list[int] | None, typer.Option(help="Several times for several.")] = None,
    layers: Annotated[int, typer.Option(min=1, help="Blocks.")] = 2,
    errors: Annotated[
        bool, typer.Option(help="Run the emulated device too, and compare with eager.")
    ] = False,
) -> Job:
    """Formats of weights on NPUs, simulated: a stack of Llama-like blocks."""
    targets, formats = target or npu_weights.TARGETS, weights or npu_weights.FORMATS
    rows, folds = tokens or npu_weights.TOKENS, fold or ("off", "auto")

    def measure() -> Mapping[str, Any]:
        return npu_weights.measure(
            targets, formats, tokens=rows, folds=folds, layers=layers, errors=errors, say=say
        )

    return Job({"layers": layers}, measure)


@benchmark(npu_hexagon.NAME)
def run_hexagon(
    models: Models = None,
    target: Targets = None,
    layers: Layers = None,
    folded: Annotated[bool, typer.Option("--folded/--no-folded", help="Fold a deep model as well.")] = True,
    depth: Annotated[list[int] | None, typer.Option(min=2, help="Its layers, several times.")] = None,
    scope: Annotated[
        list[str] | None, typer.Option("--from", help="Its input, ids or rows, several times.")
    ] = None,
    rows: Annotated[bool, typer.Option("--models/--no-models", help="Compare the models.")] = True,
) -> Job:
    """Qualcomm's Hexagon, simulated: forgec against ONNX Runtime's QNN provider."""
    chosen, targets = (models or npu_hexagon.MODELS) if rows else (), target or npu_hexagon.TARGETS
    depths = (depth or npu_hexagon.DEPTHS) if folded else ()

    def measure() -> Mapping[str, Any]:
        return npu_hexagon.measure(
            chosen, targets, layers=layers, depths=depths, scopes=scope or npu_hexagon.SCOPES, say=say
        )

    return Job({"layers": layers or f"{npu_hexagon.LAYERS}, MiniLM all"}, measure)
