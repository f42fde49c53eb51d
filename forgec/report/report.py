"""The report of a compile, as data.

The classes below are the format: ``schema.py`` derives the published JSON schema from their annotations, and
reading and writing derive from them too. A field says its meaning and unit in its annotation. Every field is
always written; what was not measured is null. Numbers that are not finite are the strings "NaN", "Infinity"
and "-Infinity", since JSON has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from ..errors import ArtifactError, OptionError
from . import codec

__all__ = [
    "SCHEMA",
    "BlockReport",
    "CaptureReport",
    "Cei",
    "CostReport",
    "Fallback",
    "Fidelity",
    "GraphReport",
    "Kind",
    "LayerReport",
    "MemoryReport",
    "PassReport",
    "Phase",
    "PhaseName",
    "PlacementReport",
    "PredictionReport",
    "Report",
    "RssReport",
]

SCHEMA: Literal["forgec.report/1"] = "forgec.report/1"

Kind = Literal["measured", "emulated", "simulated", "estimated"]
"""What a number is: timed on the device, run by a stand-in, from a vendor's model, or from forgec's."""

PhaseName = Literal["capture", "passes", "lowering", "planning", "executable", "check", "check_together"]
"""``check_together`` is the check of all programs of a file at once, in the report of the main one."""


@dataclass
class Phase:
    """One phase of the compile."""

    name: Annotated[PhaseName, "Name of the phase."]
    ms: Annotated[float, "Wall-clock time in milliseconds, measured."]


@dataclass
class BlockReport:
    """A block that occurs several times and was traced once."""

    name: Annotated[str, "Name of the block."]
    instances: Annotated[int, "How often it occurs in the model."]
    nodes: Annotated[int, "Nodes of one instance, as captured."]


@dataclass
class CaptureReport:
    """How the graph came about."""

    mode: Annotated[
        Literal["blocks", "full", "exported"],
        "Each distinct block traced once, everything traced, or taken as exported.",
    ]
    blocks: Annotated[list[BlockReport], "The repeated blocks, none with mode full."]
    note: Annotated[str | None, "Why the capture did not go by blocks, if it did not."]


@dataclass
class PassReport:
    """One run of one pass."""

    name: Annotated[str, "Name of the pass."]
    round: Annotated[int, "Round of the fixpoint iteration, from 1."]
    ms: Annotated[float, "Wall-clock time in milliseconds, measured."]
    rewrites: Annotated[int, "Rewrites done in the distinct functions."]
    nodes_before: Annotated[int, "Nodes of the graph before, blocks counted as often as they are called."]
    nodes_after: Annotated[int, "The same after."]
    bytes_before: Annotated[int, "Bytes of all intermediate results before."]
    bytes_after: Annotated[int, "The same after."]


@dataclass
class GraphReport:
    """Size of the program on its way, blocks counted as often as they are called."""

    nodes_captured: Annotated[int, "Operator nodes as captured."]
    nodes_optimised: Annotated[int, "Operator nodes after the passes."]
    instructions: Annotated[int, "Instructions of the flat program."]
    recipes: Annotated[int, "Constants computed from source tensors when the artifact is written."]


@dataclass
class Fallback:
    """Instructions that are not on the requested device, alike in op, reason and source."""

    op: Annotated[str, "IR op."]
    count: Annotated[int, "Instructions."]
    device: Annotated[str, "Where they run instead."]
    code: Annotated[str, "Stable word for the kind of reason."]
    reason: Annotated[str, "Why, in one sentence with the values."]
    source: Annotated[str | None, "Where in the user's model."]
    fix: Annotated[str | None, "What would change it."]


@dataclass
class PlacementReport:
    """Which device runs what."""

    counts: Annotated[dict[str, int], "Instructions by device."]
    fallbacks: Annotated[list[Fallback], "Everything that is not on the requested device."]
    transitions: Annotated[int, "Adjacent instructions on different devices, in execution order."]
    transitions_naive: Annotated[int, "The same in program order."]
    flops: Annotated[dict[str, float], "Arithmetic operations of one run by device."]


@dataclass
class MemoryReport:
    """Memory of a run, over all devices."""

    registers: Annotated[int, "Virtual registers with storage of their own."]
    buffers: Annotated[int, "Distinct places that they share."]
    rho: Annotated[float, "1 - buffers / registers."]
    arena_bytes: Annotated[int, "Bytes of the arenas."]
    lower_bound_bytes: Annotated[int, "Largest sum of live bytes; no arena can be smaller."]
    no_reuse_bytes: Annotated[int, "Bytes if every register had its own place."]
    weight_bytes: Annotated[int, "Bytes of the constants."]
    constants: Annotated[int, "Constants."]
    weight_types: Annotated[dict[str, int], "Bytes of the constants by element type."] = field(
        default_factory=dict
    )


@dataclass
class Fidelity:
    """Difference from a reference on given inputs, measured: the worst over all outputs."""

    max_abs: Annotated[float, "Largest absolute difference of any element."]
    kl: Annotated[
        float,
        "KL divergence of the softmax over the last axis in nats: mean over evenly spaced rows.",
    ]
    cosine: Annotated[float, "Cosine of the outputs as vectors."]
    sqnr_db: Annotated[float, "Signal to quantisation noise ratio in decibels; infinite when equal."]
    reference: Annotated[str, "What was compared with."]
    inputs: Annotated[str, "On which inputs: example, seed 1, ..."]
    bound_max_abs: Annotated[float, "Largest max_abs that passes."]
    bound_kl: Annotated[float, "Largest kl that passes."]
    passed: Annotated[bool, "Whether both bounds hold."]


@dataclass
class CostReport:
    """Latency of one run in the cost model."""

    unfused_us: Annotated[float, "Microseconds with fusion 0."]
    fused_us: Annotated[float, "Microseconds as compiled."]
    fgr: Annotated[float, "Fusion Gain Ratio: unfused_us / fused_us."]
    kind: Annotated[Kind, "What the two times are."]
    calibration: Annotated[str, "What the cost model was fitted on."]


@dataclass
class Cei:
    """Compilation Efficiency Index over one baseline."""

    baseline: Annotated[str, "The other compiler."]
    latency_ratio: Annotated[float, "Baseline's latency over forgec's."]
    compile_s: Annotated[float, "Seconds that forgec took to compile."]
    cei: Annotated[float, "latency_ratio / compile_s, per second."]
    kind: Annotated[Kind, "What the latencies are."]


@dataclass
class RssReport:
    """Resident memory of the compiling process."""

    before_bytes: Annotated[int, "Before the compile."]
    peak_bytes: Annotated[int, "Largest during the compile."]
    model_bytes: Annotated[int, "Of the model's parameters and buffers, each counted once."]
    method: Annotated[str, "How the peak was measured."]


@dataclass
class LayerReport:
    """One layer of a segment in the vendor's model of a run."""

    name: Annotated[str, "Name in the vendor's schedule."]
    engine: Annotated[str, "What the vendor's model runs there."]
    start_us: Annotated[float, "Microseconds from the start of the segment."]
    duration_us: Annotated[float, "Microseconds; layers overlap."]
    source: Annotated[str, "Where in the user's model; empty if the compiler kept no name."]


@dataclass
class RepeatReport:
    """Instructions that a program repeats with other weights; null for what was not tried."""

    what: Annotated[str, "The instructions."]
    calls: Annotated[int, "How often a run executes them."]
    folded: Annotated[bool, "Whether they were compiled once, their weights as inputs."]
    reason: Annotated[str, "Why, in one sentence."]
    folded_us: Annotated[float | None, "Microseconds of all calls with weights as inputs, simulated."]
    unfolded_us: Annotated[float | None, "The same with weights in the code, estimated from one or two."]
    folded_bytes: Annotated[int | None, "Code with weights as inputs."]
    unfolded_bytes: Annotated[int | None, "Code of all calls with weights in it, estimated likewise."]
    folded_s: Annotated[float | None, "Seconds of the vendor's compiler with weights as inputs, measured."]
    unfolded_s: Annotated[float | None, "The same with weights in the code, estimated likewise."]


@dataclass
class PredictionReport:
    """What a vendor's compiler or simulator says of one segment; null where its model does not tell."""

    segment: Annotated[int, "Index of the segment in the plan."]
    device: Annotated[str, "Target."]
    latency_us: Annotated[float, "Microseconds of one run without the host's dispatch."]
    kind: Annotated[Kind, "What the latency is."]
    method: Annotated[str, "Where it comes from."]
    ddr_bytes: Annotated[int | None, "Bytes between memory and chip."]
    spill_bytes: Annotated[int | None, "Of these, bytes for want of on-chip memory."]
    on_chip_bytes: Annotated[int | None, "Peak of on-chip memory."]
    code_bytes: Annotated[int | None, "The device's code with its weights."]
    dispatches: Annotated[int, "How often the host starts the device."]
    uncosted: Annotated[list[str], "Kernels that the vendor's model counts as free."]
    layers: Annotated[list[LayerReport], "Timeline of the segment."]
    repeats: Annotated[list[RepeatReport], "What the segment repeats, and whether it was compiled once."] = (
        field(default_factory=list)
    )


@dataclass
class Verdict:
    """The device or the host: one run as placed, against the same program on the host alone."""

    answer: Annotated[str, "The device that is faster, or either."]
    sentence: Annotated[str, "Why, with what is simulated and what is estimated."]
    placed_us: Annotated[float, "Microseconds of a run as placed, without starting the device."]
    host_us: Annotated[float, "Microseconds on the host alone, estimated."]
    simulated_us: Annotated[float, "The part of placed_us that the vendor's compiler simulated."]


@dataclass(kw_only=True)
class Report:
    """What ``forgec.compile`` did and what came out; ``Executable.report``."""

    schema: Annotated[Literal["forgec.report/1"], "Name and version of this format."] = SCHEMA
    model: Annotated[str, "Name of the model."]
    target: Annotated[str, "Target compiled for."]
    options: Annotated[dict[str, Any], "Options by name."]
    phases: Annotated[list[Phase], "The phases in order."]
    capture: Annotated[CaptureReport, "How the graph came about."]
    passes: Annotated[list[PassReport], "Every run of every pass, in order."]
    graph: Annotated[GraphReport, "Size of the program."]
    placement: Annotated[PlacementReport, "Which device runs what, and why."]
    memory: Annotated[MemoryReport, "Memory of a run."]
    fidelity: Annotated[Fidelity | None, "Comparison with eager PyTorch; null without the check."]
    cost: Annotated[CostReport, "Latency in the cost model."]
    cei: Annotated[list[Cei], "Against each baseline that was measured."]
    rss: Annotated[RssReport, "Memory of the compile."]
    versions: Annotated[dict[str, str], "Versions by package."]
    warnings: Annotated[list[str], "What the user should know."] = field(default_factory=list)
    predictions: Annotated[list[PredictionReport], "Segments that a vendor's model simulated."] = field(
        default_factory=list
    )
    verdict: Annotated[Verdict | None, "Which device is faster; null for the host and before compiling."] = (
        None
    )

    @property
    def total_ms(self) -> float:
        """Sum of the phases in milliseconds."""
        return sum(phase.ms for phase in self.phases)

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return codec.to_plain(self)

    def to_json(self) -> str:
        """The report as JSON text that follows the published schema."""
        return codec.dumps(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """The report that a JSON text holds.

        Strict: raises :class:`ArtifactError`, with the path of the first offending value, for exactly those
        texts that the published schema rejects.
        """
        return codec.loads(cls, text, "report")

    def save(self, path: str | Path) -> None:
        """Write ``.json`` or ``.html``; :class:`OptionError` for another suffix, :class:`ArtifactError` if it
        cannot be written."""
        path = Path(path)
        from . import html

        writers: dict[str, Callable[[], str]] = {
            ".json": lambda: self.to_json() + "\n",
            ".html": lambda: html.render(self),
        }
        if path.suffix not in writers:
            raise OptionError(f"a report cannot be written as {path.name!r}", hint="name it .json or .html")
        text = writers[path.suffix]()
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ArtifactError(f"cannot write the report: {error.strerror}", where=str(path)) from error

    def print(self, file: IO[str] | None = None) -> None:
        """Print the short form to ``file`` (stdout unless given): with colour only if it is a terminal."""
        from . import terminal

        terminal.print_report(self, file)
