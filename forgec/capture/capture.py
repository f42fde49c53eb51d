"""From whatever the user has (module, exported program, ``.pt2`` file) to a :class:`CapturedGraph`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ..collector import collector_paused
from ..debug import log
from ..errors import CaptureError
from ..graph import Block, CapturedGraph, call_block, inline_block
from .accepted import input_tensors, require_plain
from .blocks import BlockCall, Recorded, is_block_call, record, stubbed
from .complex_pairs import real_form
from .constants import ConstantTable, rename_constants
from .experts import static_experts
from .export import ExportedGraph, quiet, results_of
from .exported import capture_exported, specialised
from .halves import widen_halves
from .own_code import own_code
from .pt2 import load_pt2
from .reference import EAGER, Referenced
from .source import first_line, user_frame
from .states import bind_states
from .structure import build_signature, parameter_names
from .trace import TraceError, ValueNeededError
from .tracers import DirectTracer, Exporter, Tracer

__all__ = ["Capture", "capture"]


@dataclass
class Capture:
    """The graphs, and what the check against eager needs: the flat example inputs and the model's own flat
    results on them (None for an exported program that carries no example). ``reference`` says what computed
    these, and ``precisions`` what that computed in beside f32, in which the graphs do."""

    graph: CapturedGraph
    inputs: list[torch.Tensor]
    expected: list[torch.Tensor] | None
    reference: str = EAGER
    precisions: frozenset[str] = frozenset()

    def bind_states(self, pairs: Mapping[str, str]) -> None:
        """Make states of inputs that come back as outputs (see :func:`.states.bind_states`)."""
        before = self.graph.signature
        bind_states(self.graph, pairs)
        names = {leaf.name for leaf in self.graph.signature.inputs}
        kept = [leaf.name in names for leaf in before.inputs]
        self.inputs = [x for x, keep in zip(self.inputs, kept, strict=True) if keep]
        if self.expected is not None:
            names = {leaf.name for leaf in self.graph.signature.results}
            kept = [leaf.name in names for leaf in before.results]
            self.expected = [x for x, keep in zip(self.expected, kept, strict=True) if keep]


def capture(
    model: nn.Module | ExportedProgram | str | Path,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    mode: str = "auto",
    name: str | None = None,
    fake: bool = False,
) -> Capture:
    """Capture a model as graphs of ATen operators.

    ``mode`` is ``"blocks"`` (trace each distinct block once), ``"full"`` (trace everything) or ``"auto"``
    (blocks where the model has repeated ones). An exported program or ``.pt2`` file is taken as it is, with
    dynamic shapes for those of the inputs or of its own example. With ``fake`` the model is not run for a
    reference, and its large weights may be stand-ins without values.

    Raises ``CaptureError`` for a model in training mode, missing example inputs, or what ``torch.export``
    cannot trace.
    """
    kwargs = dict(kwargs or {})
    if isinstance(model, str | Path):
        model = load_pt2(Path(model))
    if isinstance(model, ExportedProgram):
        graph, inputs, expected = capture_exported(specialised(model, args, kwargs), name or "exported")
        return Capture(graph, inputs, expected, precisions=widen_halves(graph))
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"cannot capture a {type(model).__name__}",
            hint="pass an nn.Module, a torch.export.ExportedProgram, or the path of a .pt2 file",
        )
    if isinstance(model, OptimizedModule):
        model = model._orig_mod
    name = name or type(model).__name__
    require_plain(model, name)
    inputs = input_tensors(name, args, kwargs)
    if isinstance(model, Referenced):
        model = model.for_inputs(args, kwargs)
    with collector_paused(), own_code(), static_experts(model):
        graph, result = _traced(model, name, args, kwargs, mode, fake)
    if mode == "blocks" and not graph.blocks:
        raise CaptureError(
            f"{name} has no repeated blocks", hint='use capture="full" or leave capture="auto"'
        )
    results = [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
    if isinstance(model, Referenced):
        graph.stored = model.stored
    if not isinstance(model, Referenced):
        return Capture(graph, inputs, None if fake else results, precisions=widen_halves(graph))
    if fake:
        return Capture(graph, inputs, None)
    found = model.reference_results(args, kwargs)
    if isinstance(found, str):
        graph.notes.append(f"checked against PyTorch running the import only: {found}")
        return Capture(graph, inputs, results)
    return Capture(graph, inputs, found[1], found[0], model.reference_precisions)


def _recorded(
    model: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], fake: bool
) -> Recorded:
    """A run of the model; a fake one is made again for real where values decide, if all weights have some."""
    try:
        with quiet() if fake else nullcontext():
            return record(model, args, kwargs, fake)
    except Exception as error:
        if fake and not any(t.is_meta for t in (*model.parameters(), *model.buffers())):
            log(1, f"run again with values: {first_line(error)}")
            return _recorded(model, name, args, kwargs, fake=False)
        raise CaptureError(
            f"{name} fails on the example inputs: {type(error).__name__}: {first_line(error)}",
            user_frame(error.__traceback__),
            "check the example inputs' shapes and dtypes against the model's forward",
        ) from error


def _traced(
    model: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], mode: str, fake: bool
) -> tuple[CapturedGraph, Any]:
    """The graphs of a call, and what it returns, with values unless ``fake``: traced directly, or where only
    that can tell by ``torch.export``."""
    recorded = None if fake else _recorded(model, name, args, kwargs, fake)
    tracer = DirectTracer(model, recorded)
    try:
        try:
            return _Call(model, name, args, kwargs, tracer).assembled(mode), tracer.result
        except ValueNeededError as error:
            if mode != "auto" or not tracer.blocks:
                raise
            # A block alone does not see that what it is given are constants.
            log(1, f"traced in full: {first_line(error)}")
            return _Call(model, name, args, kwargs, tracer).assembled("full"), tracer.result
    except (TraceError, CaptureError) as error:
        log(1, f"captured by torch.export, as a direct trace failed: {first_line(error)}")
        said = error if isinstance(error, CaptureError) else None
    recorded = recorded or _recorded(model, name, args, kwargs, fake)
    try:
        return _exported(_Call(model, name, args, kwargs, Exporter(recorded)), mode), recorded.result
    except CaptureError:
        if said is not None:
            raise said from None
        raise


def _exported(call: _Call, mode: str) -> CapturedGraph:
    """The graphs of a call by ``torch.export``."""
    try:
        return call.assembled(mode)
    except CaptureError as error:
        if mode != "auto" or not call.tracer.blocks:
            raise
        graph = call.assembled("full")
        graph.notes.append(f"traced in full, because a block could not be traced alone: {error.what}")
        return graph


@dataclass
class _Call:
    """A model, the call to capture, and the way to its graphs."""

    model: nn.Module
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tracer: Tracer

    def assembled(self, mode: str) -> CapturedGraph:
        """In full, or block by block if there are blocks."""
        full = mode == "full" or not self.tracer.blocks
        return self._assemble_full() if full else self._assemble_blocks()

    def _assemble_full(self) -> CapturedGraph:
        exported = self.tracer.whole(self.model, self.args, self.kwargs)
        return self._captured(exported, {}, ConstantTable(), "full")

    def _assemble_blocks(self) -> CapturedGraph:
        try:
            exported, made = self._stubbed(hide=True)
        except (CaptureError, TraceError) as error:
            log(1, f"traced again with the blocks' weights: {first_line(error)}")
            exported, made = self._stubbed(hide=False)
        kinds: dict[str, list[BlockCall]] = {}
        for call in made:
            kinds.setdefault(call.kind, []).append(call)
        table = ConstantTable()
        blocks: dict[str, Block] = {}
        captured = self._captured(exported, blocks, table, "blocks")
        for kind, calls in kinds.items():
            blocks[kind] = _block(kind, calls, table, self.tracer.block(calls[0]))
        _resolve_calls(exported.graph, made)
        for kind, calls in kinds.items():
            if len(calls) == 1:
                inline_block(captured, kind)
        return captured

    def _stubbed(self, hide: bool) -> tuple[ExportedGraph, list[BlockCall]]:
        with stubbed(self.tracer.blocks, self.tracer.returned, hide) as made:
            return self.tracer.whole(self.model, self.args, self.kwargs), made

    def _captured(
        self, exported: ExportedGraph, blocks: dict[str, Block], table: ConstantTable, mode: str
    ) -> CapturedGraph:
        names = parameter_names(self.model, len(self.args))
        signature, _ = build_signature(names, self.args, self.kwargs, self.tracer.result)
        traced = [node.meta["type"] for node in results_of(exported.graph)]
        if traced != [leaf.type for leaf in signature.results]:
            raise CaptureError(
                f"{self.name} returns {len(signature.results)} tensors when it runs and {len(traced)}, or "
                "others, when it is traced",
                hint="return the same structure in both cases (for language models: use_cache=False)",
            )
        states = table.adopt(exported)
        return CapturedGraph(self.name, exported.graph, blocks, table.tensors, states, signature, mode)


def _block(kind: str, calls: list[BlockCall], table: ConstantTable, exported: ExportedGraph) -> Block:
    """A kind of block by the graph of its representative, with every instance's constants.

    Local names start with ``@``, which no name of the program does. A tensor that is neither parameter nor
    buffer of the block (a table built in its forward) is shared by all.
    """
    first = calls[0]
    if exported.states:
        raise CaptureError(f"block {first.path} changes its buffer {min(exported.states)!r}")
    own = _own_tensors(first.module)
    shared = {
        local: table.add(f"{first.path}.{local}", tensor)
        for local, tensor in exported.constants.items()
        if local not in own
    }
    local_names = {local: f"@{local}" for local in exported.constants if local in own}
    instances: dict[str, dict[str, str]] = {}
    for number, call in enumerate(calls):
        tensors = _own_tensors(call.module)
        instances[f"{call.path}#{number}"] = {
            name: table.add(f"{call.path}.{local}", tensors[local]) for local, name in local_names.items()
        }
    rename_constants(exported.graph, local_names | shared)
    return Block(kind, exported.graph, instances)


def _own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    named = dict(module.named_parameters(remove_duplicate=False)) | dict(
        module.named_buffers(remove_duplicate=False)
    )
    return {name: real_form(tensor.detach()) for name, tensor in named.items()}


def _resolve_calls(graph: fx.Graph, made: list[BlockCall]) -> None:
    """Replace the opaque operators of the export by ``call_block`` nodes."""
    numbers: dict[int, int] = {}
    counts: dict[str, int] = {}
    for index, call in enumerate(made):
        numbers[index] = counts.setdefault(call.kind, 0)
        counts[call.kind] += 1
    for node in [n for n in graph.nodes if is_block_call(n)]:
        tensors, index = node.args
        call = made[index]
        with graph.inserting_before(node):
            new = graph.call_function(call_block, (call.kind, f"{call.path}#{numbers[index]}", *tensors))
        new.meta["type"] = call.result_types()
        new.meta["source"] = node.meta["source"]
        node.replace_all_uses_with(new)
        graph.erase_node(node)
