"""Programs that ``torch.export`` has made already."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram, ModuleCallSignature
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from ..graph import CapturedGraph
from .accepted import input_tensors
from .blocks import run_unchanged
from .constants import ConstantTable
from .export import graph_of, quiet, results_of
from .own_code import own_code
from .source import first_line
from .structure import build_signature

__all__ = ["capture_exported", "specialised"]


def _call_of(program: ExportedProgram) -> tuple[ModuleCallSignature, list[fx.Node]]:
    """How a program is called, and its inputs in order, those that are no tensors too."""
    call_spec = program.module_call_graph[0].signature
    if call_spec is None:
        raise CaptureError(
            "the exported program has no call signature", hint="export it again with torch.export.export"
        )
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    return call_spec, placeholders[len(placeholders) - call_spec.in_spec.num_leaves :]


def specialised(program: ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    """The program for inputs of these types, without any for its own example."""
    known = [n.meta.get("val") for n in _call_of(program)[1]]
    expected = [(x.shape, x.dtype) for x in known if isinstance(x, torch.Tensor)]
    static = all(isinstance(n, int) for shape, _ in expected for n in shape)
    if not args and not kwargs:
        if static:
            return program
        if program.example_inputs is None:
            raise CaptureError(
                "the exported program has dynamic shapes and no example inputs",
                hint="pass args or kwargs with the shapes to compile for",
            )
        args, kwargs = program.example_inputs
    given = input_tensors("the exported program", args, kwargs)
    if static and [(x.shape, x.dtype) for x in given] == expected:
        return program
    try:
        with own_code(), quiet():
            return torch.export.export(program.module(), args, kwargs, strict=False)
    except Exception as error:
        raise CaptureError(
            f"the exported program does not take these inputs: {first_line(error)}",
            hint="give inputs of the structure, types and shapes that it was exported for",
        ) from error


def capture_exported(
    program: ExportedProgram, name: str
) -> tuple[CapturedGraph, list[torch.Tensor], list[torch.Tensor] | None]:
    """The program's graph, its example inputs, and its results on these; None without a whole example."""
    exported = graph_of(program)
    call_spec, placeholders = _call_of(program)
    user = [n.meta.get("val") for n in placeholders]
    args, kwargs = pytree.tree_unflatten(user, call_spec.in_spec)
    count = call_spec.out_spec.num_leaves
    results = [r.meta["val"] if isinstance(r, fx.Node) else r for r in results_of(program.graph)]
    outputs = pytree.tree_unflatten(results[len(results) - count :], call_spec.out_spec)
    names = [str(node.target) for node in placeholders][: len(args)]
    signature, inputs = build_signature(names, args, kwargs, outputs)
    table = ConstantTable()
    states = table.adopt(exported)
    graph = CapturedGraph(name, exported.graph, {}, table.tensors, states, signature, "exported")
    given, expected = _run_exported(program)
    return graph, given, expected if len(given) == len(inputs.tensors) else None


def _run_exported(program: ExportedProgram) -> tuple[list[torch.Tensor], list[torch.Tensor] | None]:
    """Example inputs that the program carries, and its results on them; None if it carries none."""
    if program.example_inputs is None:
        return [], None
    args, kwargs = program.example_inputs
    given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    module = program.module()
    with own_code():
        result = run_unchanged(module, list(module.buffers()), args, kwargs)
    return given, [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
