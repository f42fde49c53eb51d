"""The table of contents: capture -> optimise -> lower -> plan -> executable -> check, one call each."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from . import backends
from .backends.base import RejectedError, Settings, Yes
from .backends.prediction import Prediction
from .capture import Capture, capture
from .check import check_against_eager, find_nan
from .debug import knobs, log
from .errors import FidelityError, OptionError, TargetError
from .executable import Executable
from .executable.archive import Info
from .executable.constants import Kept
from .executable.executable import Shared
from .graph import TORCH_DTYPES, CapturedGraph
from .ir.calibrate import Calibration
from .ir.compress import Kept as KeptCodes
from .ir.compress import codes_to_keep, compress, halves_to_keep
from .ir.halves import half_of
from .ir.in_place import flatten
from .ir.inline import inline
from .ir.lowering import Lowered, lower
from .ir.program import ConstRef, Program
from .ir.types import HALVES, DType
from .ir.verifier import verify
from .options import Options
from .passes import optimise
from .plan.check import check_plan
from .plan.cost import CostModel
from .plan.plan import HOST, Plan
from .plan.planner import make_plan
from .report import compose
from .report.report import PassReport, Phase, PhaseName, Report
from .report.verdict import verdict
from .tensors import as_numpy
from .together import Planned, Steps
from .weights import FOUR_BITS, WeightSpec

if TYPE_CHECKING:
    from .models import LoadedModel

__all__ = ["compile", "planned", "resolve"]

Model = nn.Module | ExportedProgram | str | Path
Progress = Callable[[str, int, int], None]
"""Called with the phase's name, the phases done, and their number."""


def compile(
    model: Model | LoadedModel,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: str = HOST,
    options: Options | Mapping[str, Any] | None = None,
    name: str | None = None,
    origin: str = "",
    states: Mapping[str, str] | None = None,
    readers: Mapping[str, Callable[[], torch.Tensor]] | None = None,
    calibration: Calibration | Sequence[Mapping[str, Any] | tuple[Any, ...]] | None = None,
    progress: Progress | None = None,
    **named_options: Any,
) -> Executable:
    """Compile a model ahead of time for fixed shapes.

    ``model`` is an ``nn.Module`` in evaluation mode, a ``torch.export.ExportedProgram``, the path of a saved
    ``.pt2``, an ``.onnx`` file, or what ``forgec.models`` loads: a preset's name, a Hugging Face directory or
    ``config.json``, or a ``LoadedModel``. ``args`` and ``kwargs`` are example inputs: their shapes, element
    types and nesting become the program's signature, their values do not matter. Exported programs and
    ``forgec.models`` bring their own. ``options`` and further keywords are those of :class:`forgec.Options`.
    ``origin`` says in the artifact where the weights come from. ``states`` maps keyword inputs to the entries
    of the returned dictionary that are their next values: they become states, which live in the executable
    from run to run and are zero at first. ``readers`` give the values of weights that the module has
    stand-ins for, by name (``models.load`` with ``stream``), one at a time when they are written; then
    nothing is checked. ``calibration`` has further inputs, each a mapping of keywords or a tuple: weights
    of 4 bits (int4, w4a8) are fitted to what they meet in runs on these, which costs time and the memory of
    all weights.

    The executable shares the model's memory until it is saved. Its ``report`` says what every phase did.

    Raises ``CaptureError`` (torch.export cannot trace the model), ``UnsupportedOpError`` (all operators
    without a lowering, or, with ``strict``, instructions that the target cannot run), ``TargetError``,
    ``OptionError``, and ``FidelityError`` if the result is not what eager PyTorch gives on the example
    inputs.
    """
    chosen = Options.of(options, **named_options)
    return planned(
        model,
        args,
        kwargs,
        target=target,
        chosen=chosen,
        name=name,
        origin=origin,
        states=states,
        readers=readers,
        calibration=calibration,
        progress=progress,
    ).finished()


def planned(
    model: Model | LoadedModel,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    *,
    target: str,
    chosen: Options,
    name: str | None,
    origin: str,
    states: Mapping[str, str] | None = None,
    readers: Mapping[str, Callable[[], torch.Tensor]] | None = None,
    calibration: Calibration | Sequence[Mapping[str, Any] | tuple[Any, ...]] | None = None,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Planned:
    """What :func:`compile` does before it compiles segments for devices. ``kept`` is what programs of one
    model and one calibration keep of its weights."""
    readers = readers or getattr(model, "readers", None) or {}
    if readers and chosen.check:
        raise OptionError(
            "the check runs the model, whose weights are not loaded", hint="compile with check=False"
        )
    if calibration is not None and not any(map(WeightSpec.parse(chosen.weights).uses, FOUR_BITS)):
        raise OptionError("only weights of 4 bits are calibrated", hint="compile with weights=int4 or w4a8")
    known = calibration if isinstance(calibration, Calibration | None) else Calibration(calibration)
    model, args, kwargs, name, origin = resolve(model, args, kwargs, name, origin)
    kept = kept or Kept()
    job = _Job(chosen, target, origin, progress, states or {}, readers, known, kept)

    def capturing(mode: str) -> Capture:
        # Without the check nothing needs the model's own outputs, only their types.
        return capture(model, args, kwargs, mode=mode, name=name, fake=bool(readers) or not chosen.check)

    def steps() -> Steps:
        nonlocal job
        with backends.get(target).prepared():
            try:
                executable = yield from job.run(capturing, chosen.capture)
            except _BlocksDiffer as differ:
                if known is not None:
                    known.tensors.clear()
                    kept.clear()
                notes = [str(differ)]
                job = _Job(chosen, target, origin, progress, states or {}, readers, known, kept, notes)
                executable = yield from job.run(capturing, "full")
        return executable, job.model_bytes

    return Planned(steps(), job.settings())


def resolve(
    model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, name: str | None, origin: str
) -> tuple[Model, tuple[Any, ...], Mapping[str, Any] | None, str | None, str]:
    """A specification that ``forgec.models`` knows as a module with example inputs; all else as it is.

    :class:`OptionError` for example inputs that are no tuple and no mapping by keyword.
    """
    if not isinstance(args, tuple | list):
        by_keyword = isinstance(args, Mapping)
        raise OptionError(
            f"args is a {type(args).__name__}, and not a tuple of the arguments",
            hint="kwargs=... takes inputs by keyword" if by_keyword else "a single argument is args=(x,)",
        )
    if not isinstance(kwargs, Mapping | None):
        raise OptionError(f"kwargs is a {type(kwargs).__name__}, and not a mapping by keyword")
    args = tuple(args)
    if isinstance(model, str | Path) and Path(model).suffix == ".onnx":
        from .capture.onnx import OnnxModel

        model = OnnxModel.of_inputs(model, args, kwargs or {})
    elif isinstance(model, str | Path) and Path(model).suffix != ".pt2":
        from .models import load

        model = load(model)
    if isinstance(model, nn.Module | ExportedProgram | str | Path) or not hasattr(model, "example_inputs"):
        return model, args, kwargs, name, origin
    if not args and not kwargs:
        args, kwargs = model.example_inputs()
    return model.module, args, kwargs, name or model.name, origin or model.weights


class _BlocksDiffer(Exception):
    """Blocks that look alike compute different things: the model has to be traced in full."""


@dataclass
class _Job:
    """One way through the phases."""

    options: Options
    target: str
    origin: str
    progress: Progress | None
    states: Mapping[str, str]
    readers: Mapping[str, Callable[[], torch.Tensor]]
    calibration: Calibration | None
    kept: Kept
    notes: list[str] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    model_bytes: int = 0
    codes_as_floats: list[str] = field(default_factory=list)
    """What the user should know of codes that the model brings."""
    elsewhere_ms: float = 0.0
    """Milliseconds of the phase under way that belong to other programs."""

    def run(
        self, capturing: Callable[[str], Capture], mode: str
    ) -> Generator[Shared, tuple[dict[int, Prediction], float], Executable]:
        backend, host = backends.get(self.target).under(self.settings()), backends.get(HOST)
        self.target = backend.name
        if self.target not in backends.targets():
            raise TargetError(f"{self.target} stands in for a device in tests; it is no target")
        cost = CostModel.load(self.options.costs)
        model = cost.on(backend)
        unfused: list[float] = []
        with self._phase("capture"):
            captured = capturing(mode)
            if self.states:
                captured.bind_states(self.states)
        nodes, shape = captured.graph.node_count(), compose.capture_report(captured.graph, self.notes)
        self.model_bytes = _bytes(captured.graph)
        with self._phase("passes"):
            passes = optimise(
                captured.graph,
                self.options,
                before_fusion=lambda graph: unfused.append(model.program_cost(self._lower(graph).program)),
            )
        with self._phase("lowering"):
            lowered = self._lower(captured.graph, final=True)
            if knobs().verify:
                verify(lowered.program)
            flat = flatten(lowered.program, off_host=self.target != HOST)
        refusal: RejectedError | None = None
        there = len(flat.main.body) + 1
        while True:
            with self._phase("planning"):
                plan = make_plan(flat, backends=list({backend, host}), target=backend.name, cost=cost)
                if knobs().verify:
                    check_plan(plan)
                compose.refuse_fallbacks(plan, self.options.strict)
            before, there = there, plan.placed_on(backend.name)
            if refusal is not None and there >= before:  # so there are at most as many rounds as instructions
                raise refusal
            try:
                with self._phase("executable"):
                    report = self._report(captured.graph, shape, nodes, passes, lowered, plan, model, unfused)
                    placed = [i for i in plan.program.main.body if i.device == backend.name]
                    report.warnings += backend.remarks(placed)
                    report.warnings += self.codes_as_floats
                    report.warnings += compose.gathered_weights(plan.program)
                    spec = WeightSpec.parse(self.options.weights)
                    report.warnings += compose.experts_as_floats(plan.program, spec)
                    report.warnings += compose.through_torch(plan.program)
                    executable = self._executable(captured.graph, lowered, plan, report)
                    start = time.perf_counter()
                    predicted, own_ms = yield executable.shared
                    self.elsewhere_ms = (time.perf_counter() - start) * 1e3 - own_ms
                    report.predictions = compose.prediction_reports(plan, predicted)
                    report.warnings += executable.shared.unpredicted()
                    report.verdict = verdict(plan, predicted, backend, cost)
                break
            except RejectedError as rejected:
                refusal = rejected
                captured.graph.notes.append(f"planned again: {rejected.what}")
        with self._phase("check"):
            self._check(captured, executable, report, mode)
        return executable

    def _lower(self, graph: CapturedGraph, final: bool = False) -> Lowered:
        calibration = self.calibration if final else None
        lowered, spec = lower(graph), WeightSpec.parse(self.options.weights)
        if calibration is not None and not calibration.tensors:
            calibration.observe(lowered.program, self._source(lowered), graph.signature.flatten)
        off_host = self.target != HOST
        kept, reasons = codes_to_keep(lowered.program, spec, graph.stored, off_host=off_host)
        halves = halves_to_keep(lowered.program, spec, self._half(lowered), off_host=off_host)
        program = compress(lowered.program, spec, calibration, kept, halves, off_host=off_host, fused=final)
        refused = self._refused(lowered.program, spec, kept) if final else set()
        if refused:
            kept = {name: codes for name, codes in kept.items() if name not in refused}
            program = compress(
                lowered.program, spec, calibration, kept, halves, off_host=off_host, fused=final
            )
            reasons.append(f"{self.target} takes the floats and not the codes")
        if final:
            self.codes_as_floats = compose.codes_as_floats(graph.stored, program, reasons)
        return replace(lowered, program=program, tensors={**lowered.tensors, **graph.stored.tensors()})

    def _refused(self, plain: Program, spec: WeightSpec, kept: Mapping[str, KeptCodes]) -> set[str]:
        """The constants that the target would multiply by as floats, but not by their codes. Tables of which
        only rows are read stay codes: the host can look them up."""
        if self.target == HOST or not kept:
            return set()
        backend = backends.get(self.target).under(self.settings())
        # Without offsets, which are instructions of their own, the program has the plain one's instructions.
        bare = {name: replace(codes, offsets=None) for name, codes in kept.items()}
        program = compress(plain, spec, kept=bare)
        pairs = [
            (before, after)
            for before, after in zip(inline(plain).main.body, inline(program).main.body, strict=True)
            if before.op != after.op and after.op == "linear_q"
        ]
        answers = backend.answers([instr for pair in pairs for instr in pair])
        floats, codes = answers[::2], answers[1::2]
        return {
            x.name
            for (before, _), as_floats, as_codes in zip(pairs, floats, codes, strict=True)
            if isinstance(as_floats, Yes) and not isinstance(as_codes, Yes)
            for x in before.operands
            if isinstance(x, ConstRef) and x.name in kept
        }

    def _half(self, lowered: Lowered) -> Callable[[str], DType | None]:
        """What gives the type of 16 bits that holds all numbers of a source tensor of f32, by name."""

        def found(name: str) -> DType | None:
            if name in self.readers:  # nothing is read for this, but a reader may know the type in the file
                stored = getattr(self.readers[name], "dtype", None)
                dtype = None if stored is None else TORCH_DTYPES.get(stored)
                return dtype if dtype in HALVES else None
            tensor = lowered.tensors[name]
            if isinstance(tensor, torch.Tensor):
                return half_of(as_numpy(tensor)) if tensor.is_cpu else None
            return half_of(tensor)

        def half(name: str) -> DType | None:
            if name not in self.kept.halves:
                self.kept.halves[name] = found(name)
            return self.kept.halves[name]

        return half

    def _source(self, lowered: Lowered) -> Callable[[str], np.ndarray]:
        """What gives source tensors by name."""
        fitted = {} if self.calibration is None else self.calibration.tensors

        def source(name: str) -> np.ndarray:
            if name in fitted:
                return fitted[name]
            tensor = self.readers[name]() if name in self.readers else lowered.tensors[name]
            return as_numpy(tensor) if isinstance(tensor, torch.Tensor) else tensor

        return source

    def _report(
        self,
        graph: CapturedGraph,
        shape: Any,
        nodes: int,
        passes: list[PassReport],
        lowered: Lowered,
        plan: Plan,
        cost: CostModel,
        unfused: list[float],
    ) -> Report:
        return Report(
            model=graph.name,
            target=self.target,
            options=self.options.to_dict(),
            phases=self.phases,
            capture=shape,
            passes=passes,
            graph=compose.graph_report(nodes, graph.node_count(), lowered.program, plan),
            placement=compose.placement_report(plan),
            memory=compose.memory_report(plan, lowered.program),
            fidelity=None,
            cost=compose.cost_report(unfused[0], cost.program_cost(plan.program), cost),
            cei=[],
            rss=compose.rss_report(None, self.model_bytes),
            versions=compose.versions(),
            warnings=list(graph.notes),
        )

    def settings(self) -> Settings:
        """How vendors' compilers are to be run."""
        options = self.options
        memory = options.memory << 20 if options.memory else None
        return Settings(options.timeout, memory, options.jobs, options.fold, options.predict)

    def _executable(self, graph: CapturedGraph, lowered: Lowered, plan: Plan, report: Report) -> Executable:
        initial = {
            f"s{i}": as_numpy(tensor).copy()
            for i, tensor in enumerate(graph.states.values())
            if not tensor.is_meta
        }
        info = Info(graph.name, self.target, self.options.to_dict(), self.origin)
        return Executable(
            lowered.program,
            plan,
            graph.signature,
            self._source(lowered),
            info=info,
            report=report,
            initial=initial,
            kept=self.kept,
        )

    def _check(self, captured: Capture, executable: Executable, report: Report, mode: str) -> None:
        if not self.options.check:
            return
        report.warnings += find_nan(captured.graph, self.kept.nans)
        if captured.expected is None:
            return
        try:
            report.fidelity = check_against_eager(executable, captured)
        except FidelityError as error:
            if captured.graph.blocks and mode == "auto":
                raise _BlocksDiffer(
                    f"traced in full, because blocks that look alike differ: {error.what}"
                ) from error
            raise
        if not report.fidelity.passed:
            report.warnings.append(
                f"max abs difference {report.fidelity.max_abs:.1e} or KL divergence {report.fidelity.kl:.1e} "
                f"from {report.fidelity.reference} is over its bound"
            )

    @contextmanager
    def _phase(self, name: PhaseName) -> Iterator[None]:
        if self.progress is not None:
            self.progress(name, len(self.phases), 6)
        start = time.perf_counter()
        try:
            yield
        finally:
            ms = (time.perf_counter() - start) * 1e3 - self.elsewhere_ms
            self.elsewhere_ms = 0.0
            earlier = next((phase for phase in self.phases if phase.name == name), None)
            if earlier is None:
                self.phases.append(Phase(name, ms))
            else:
                earlier.ms += ms
            log(1, f"{name}: {ms:.1f} ms")


def _bytes(graph: CapturedGraph) -> int:
    """Bytes of the model's parameters and buffers, each once."""
    tensors = (*graph.constants.values(), *graph.states.values())
    return sum(t.numel() * t.element_size() for t in tensors if not t.is_meta)
