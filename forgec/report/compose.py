"""Fill the parts of a report from what the phases made."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from forgec.backends.prediction import Prediction

from ..errors import UnsupportedOpError
from ..ir.op import get
from ..ir.program import ConstRef, Leaf, Program, leaves
from ..ir.stored import Stored, Unkept
from ..plan.cost import CostModel, work
from ..plan.plan import BY_COST, Plan
from ..version import __version__
from ..weights import WeightSpec
from . import units
from .metrics import fgr
from .report import (
    BlockReport,
    CaptureReport,
    CostReport,
    Fallback,
    GraphReport,
    LayerReport,
    MemoryReport,
    PlacementReport,
    PredictionReport,
    RepeatReport,
    RssReport,
)
from .rss import Rss

if TYPE_CHECKING:
    from ..graph import CapturedGraph

__all__ = [
    "capture_report",
    "codes_as_floats",
    "cost_report",
    "experts_as_floats",
    "gathered_weights",
    "graph_report",
    "memory_report",
    "placement_report",
    "prediction_reports",
    "refuse_fallbacks",
    "rss_report",
    "through_torch",
    "versions",
    "weight_types",
]

_FEW_CODES = 1 << 16
"""Bytes of codes that are not worth a word."""
_LEAST_SHARE = 0.05
"""Of those, what a reason stands for that is named."""

_PACKAGES = ("torch", "transformers", "numpy", "scipy", "safetensors", "onnx", "onnxruntime", "openvino")


def capture_report(graph: CapturedGraph, notes: list[str]) -> CaptureReport:
    """How the graph came about; call it before the passes."""
    blocks = [
        BlockReport(name, len(graph.blocks[name].instances), sum(n.op == "call_function" for n in body.nodes))
        for name, body, _ in graph.graphs()
        if name in graph.blocks
    ]
    said = [*notes, *graph.notes]
    return CaptureReport(graph.mode, blocks, "; ".join(said) or None)  # type: ignore[arg-type]


def graph_report(captured: int, optimised: int, program: Program, plan: Plan) -> GraphReport:
    """Node counts, instructions of the flat program, constants that are computed."""
    recipes = sum(not isinstance(c.recipe, Leaf) for c in program.constants.values())
    return GraphReport(captured, optimised, len(plan.program.main.body), recipes)


def placement_report(plan: Plan) -> PlacementReport:
    """Instructions and arithmetic by device, and a reason for everything off the target."""
    counts: Counter[str] = Counter()
    flops: dict[str, float] = {}
    groups: dict[Any, int] = {}
    for index, instr in enumerate(plan.program.main.body):
        device = instr.device or plan.host
        counts[device] += 1
        needed = None if get(instr.op).view else work(instr)
        flops[device] = flops.get(device, 0.0) + (needed.flops if needed is not None else 0.0)
        reason = plan.reasons.get(index)
        if reason is not None:
            source = str(instr.source) if instr.source else None
            key = (instr.op, device, reason.code, reason.sentence, source, reason.fix)
            groups[key] = groups.get(key, 0) + 1
    fallbacks = [
        Fallback(op, count, device, code, sentence, source, fix)
        for (op, device, code, sentence, source, fix), count in groups.items()
    ]
    return PlacementReport(dict(counts), fallbacks, plan.transitions, plan.transitions_naive, flops)


def prediction_reports(plan: Plan, predictions: Mapping[int, Prediction]) -> list[PredictionReport]:
    """What the vendors' models say, by segment."""
    return [
        PredictionReport(
            segment=index,
            device=plan.segments[index].device,
            latency_us=p.latency_us,
            kind="simulated",
            method=p.method,
            ddr_bytes=p.ddr_bytes,
            spill_bytes=p.spill_bytes,
            on_chip_bytes=p.on_chip_bytes,
            code_bytes=p.code_bytes,
            dispatches=p.dispatches,
            uncosted=list(p.uncosted),
            layers=[LayerReport(x.name, x.engine, x.start_us, x.duration_us, x.source) for x in p.layers],
            repeats=[RepeatReport(**asdict(x)) for x in p.repeats],
        )
        for index, p in predictions.items()
    ]


def refuse_fallbacks(plan: Plan, strict: bool) -> None:
    """Under ``strict``, instructions that the target cannot run are an error that names them all; what is
    elsewhere because the program is faster so is none."""
    found = placement_report(plan).fallbacks if strict and plan.reasons else []
    fallbacks = [fallback for fallback in found if fallback.code != BY_COST]
    if fallbacks:
        lines = [f"{f.count} x {f.op} on {f.device}: {f.reason} ({f.source}); {f.fix}" for f in fallbacks]
        raise UnsupportedOpError(
            f"{sum(f.count for f in fallbacks)} instructions cannot run on {plan.target}:\n    "
            + "\n    ".join(lines),
            hint="change these lines of the model, or compile without strict",
        )


def memory_report(plan: Plan, program: Program) -> MemoryReport:
    """Arenas of all devices together, and the constants."""
    arenas = list(plan.arenas.values())
    registers, buffers = sum(a.registers for a in arenas), sum(a.buffers for a in arenas)
    types = weight_types(program)
    return MemoryReport(
        registers=registers,
        buffers=buffers,
        rho=1 - buffers / registers if registers else 0.0,
        arena_bytes=sum(a.nbytes for a in arenas),
        lower_bound_bytes=sum(a.lower_bound for a in arenas),
        no_reuse_bytes=sum(a.no_reuse for a in arenas),
        weight_bytes=sum(types.values()),
        constants=len({c.key for c in program.constants.values()}),
        weight_types=types,
    )


def weight_types(program: Program) -> dict[str, int]:
    """Bytes of a program's constants by element type, most first; what several share counts once."""
    found: dict[str, int] = {}
    for constant in {c.key: c for c in program.constants.values()}.values():
        name = constant.type.dtype.value
        found[name] = found.get(name, 0) + constant.type.nbytes
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def codes_as_floats(stored: Stored, program: Program, reasons: Iterable[str]) -> list[str]:
    """A warning if a program has much of a model's codes as floats; ``reasons`` are those that codes which
    could be kept are not."""
    lost = stored.floats(program)
    nbytes = sum(codes.nbytes for codes in lost)
    if nbytes < _FEW_CODES:
        return []
    by_reason: Counter[str] = Counter()
    for codes in lost:
        by_reason[codes.reason if isinstance(codes, Unkept) else ""] += codes.nbytes
    said = [reason for reason, size in by_reason.most_common() if reason and size >= _LEAST_SHARE * nbytes]
    why = "; ".join(dict.fromkeys((*said, *reasons))) or "no product or table has them as they are"
    return [
        f"{units.nbytes(nbytes)} of {units.nbytes(stored.nbytes)} of quantised weights in the file become "
        f"f32, four or eight times as large: {why}"
    ]


def gathered_weights(program: Program) -> list[str]:
    """A warning if a run of a flat program copies more of some weights than there is, as a mixture of experts
    does that reads many tokens at once: its matrices are gathered anew for every token and expert."""
    copied: dict[str, int] = {}
    largest = 0
    for instr in program.main.body:
        weight = instr.operands[0] if instr.op == "gather" else None
        if not isinstance(weight, ConstRef) or weight.type.rank < 3:  # a table of rows, not of matrices
            continue
        nbytes = instr.results[0].type.nbytes
        if nbytes > weight.type.nbytes:
            copied[weight.name] = copied.get(weight.name, 0) + nbytes
            largest = max(largest, nbytes)
    if not copied:
        return []
    held = sum(program.constants[name].type.nbytes for name in copied)
    return [
        f"experts are gathered for every token: a run copies {units.nbytes(sum(copied.values()))} of their "
        f"matrices, {units.nbytes(largest)} at once, and the model holds {units.nbytes(held)}; "
        "smaller chunks copy less"
    ]


def experts_as_floats(program: Program, spec: WeightSpec) -> list[str]:
    """A warning if a flat program multiplies by floats of experts that were to be compressed."""
    held = {
        x.name: x.type.nbytes
        for instr in program.main.body
        if instr.op == "expert_linear" and isinstance(x := instr.operands[1], ConstRef)
        if spec.of(leaf.name for leaf in leaves(program.constants[x.name].recipe)).compresses
    }
    if not held:
        return []
    return [
        f"{units.nbytes(sum(held.values()))} of weights of experts stay floats: their codes have a form "
        "on the CPU only, where the outputs of an expert are a multiple of 32"
    ]


def through_torch(program: Program) -> list[str]:
    """A warning if a flat program has operators that PyTorch computes: it does not run without it."""
    targets = sorted({str(i.attrs["target"]) for i in program.main.body if i.op == "aten"})
    if not targets:
        return []
    return [f"runs only where PyTorch is installed, which computes {', '.join(targets)}"]


def cost_report(unfused_us: float, fused_us: float, cost: CostModel) -> CostReport:
    """The Fusion Gain Ratio in the cost model."""
    calibration = f"{cost.machine}, {cost.date}, {cost.method}"
    return CostReport(unfused_us, fused_us, fgr(unfused_us, fused_us), "estimated", calibration)


def rss_report(memory: Rss | None, model_bytes: int) -> RssReport:
    """Memory of the compile; zeros as long as it is running."""
    if memory is None:
        return RssReport(0, 0, model_bytes, "not measured")
    return RssReport(memory.before_bytes, memory.peak_bytes, model_bytes, memory.method)


def versions() -> dict[str, str]:
    """Versions of forgec, Python and the packages that matter for the result."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"forgec": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
