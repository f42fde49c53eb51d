"""``torch.export`` of one module, turned into a graph with named constants.

``torch.export`` gives a program whose parameters and buffers are lifted to placeholders. Here they become
``get_attr`` nodes again, constant inputs disappear, values get IR types and sources, and a program that
mutates anything, or maps functions over tensors, is made functional first (``run_decompositions`` with an
empty table, which keeps the high-level operators). A buffer that the model changes becomes a state.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from ..debug import log
from ..errors import CaptureError
from ..graph import TORCH_DTYPES, read_state, tensor_type, write_state
from ..ir.lowering import is_supported
from ..ir.types import DType
from ..tensors import lifted_name
from .source import node_source, user_frame

__all__ = [
    "ASSERTIONS",
    "ExportedGraph",
    "export_module",
    "graph_of",
    "has_no_lowering",
    "quiet",
    "results_of",
    "simpler_operators",
    "types_of",
]

ASSERTIONS = {
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
}


@dataclass
class ExportedGraph:
    """A traced module. ``constants`` are the tensors that ``get_attr`` and ``read_state`` nodes name;
    ``states`` the names among them that ``write_state`` nodes change."""

    graph: fx.Graph
    constants: dict[str, torch.Tensor]
    states: set[str]


def export_module(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], prefix: str = ""
) -> ExportedGraph:
    """Trace a module on example inputs; ``prefix`` is its path in the whole model.

    Raises ``CaptureError`` naming the line of the model that cannot be traced and what to try.
    """
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(module, args, dict(kwargs), strict=False)
    except Exception as error:
        raise _explain(error, prefix or type(module).__name__) from error
    return graph_of(program, prefix)


def graph_of(program: ExportedProgram, prefix: str = "") -> ExportedGraph:
    """The graph of an exported program in the conventions of :mod:`forgec.graph`."""
    if any(_mutates(node) or _maps(node) for node in program.graph.nodes):
        with torch.no_grad(), quiet():
            program = program.run_decompositions({})
    program = _decomposed(program)
    signature = program.graph_signature
    tensors = {**program.state_dict, **program.constants}
    kinds = {spec.arg.name: spec for spec in signature.input_specs}
    changed = set(signature.buffers_to_mutate.values())
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    constants: dict[str, torch.Tensor] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = kinds[node.name]
            if spec.kind is InputKind.USER_INPUT:
                if isinstance(node.meta.get("val"), torch.Tensor):
                    env[node] = graph.placeholder(node.name)
                    env[node].meta["type"] = _types(node)
                continue
            if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                raise CaptureError(
                    f"the model holds {spec.target!r}, a {spec.kind.name.lower().replace('_', ' ')}",
                    prefix or None,
                    "keep only tensors and plain Python values in the model",
                )
            name = str(spec.target)
            tensor = tensors[name]
            if spec.kind is InputKind.CONSTANT_TENSOR:
                name = lifted_name(tensor)
            constants[name] = tensor
            env[node] = graph.call_function(read_state, (name,)) if name in changed else graph.get_attr(name)
            env[node].meta = {"type": tensor_type(tensor), "source": node_source(node, prefix)}
        elif node.op == "output":
            results = list(node.args[0])
            user = []
            for spec, result in zip(signature.output_specs, results, strict=True):
                if spec.kind is OutputKind.USER_OUTPUT:
                    if isinstance(result, fx.Node) and result in env:
                        user.append(env[result])
                elif spec.kind is OutputKind.BUFFER_MUTATION:
                    name = str(spec.target)
                    written = graph.call_function(write_state, (name, env[result]))
                    written.meta = {"type": (), "source": node_source(result, prefix)}
                else:
                    raise CaptureError(
                        f"the model changes its input {spec.target!r} in place",
                        prefix or None,
                        "clone the input before changing it",
                    )
            graph.output(tuple(user))
        elif node.op == "call_function" and node.target in ASSERTIONS:
            continue
        else:
            new = graph.node_copy(node, lambda n: env[n])
            new.meta = {"type": _types(node), "source": node_source(node, prefix)}
            env[node] = new
    return ExportedGraph(graph, constants, changed)


def results_of(graph: fx.Graph) -> list[Any]:
    """What a graph returns, in order."""
    return list(next(iter(reversed(graph.nodes))).args[0])


def _decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program with operators that have no lowering replaced by simpler ones, as far as torch knows
    how."""
    for _ in range(3):
        missing = {
            n.target for n in program.graph.nodes if n.op == "call_function" and has_no_lowering(n.target)
        }
        if not missing:
            break
        known = simpler_operators(missing)
        if not known:
            break
        with torch.no_grad(), quiet():
            simpler = program.run_decompositions(known)
        if any(spec.kind is InputKind.TOKEN for spec in simpler.graph_signature.input_specs):
            break  # an effectful check came in with them; lowering reports the operators as they were
        program = simpler
    return program


@cache
def _decompositions() -> Mapping[Any, Callable[..., Any]]:
    return torch.export.default_decompositions()


def simpler_operators(targets: set[Any]) -> dict[Any, Callable[..., Any]]:
    """By operator what computes it by simpler ones, where torch knows how."""
    table = _decompositions()
    return {target: table[target] for target in targets if target in table}


def has_no_lowering(target: Any) -> bool:
    fused_or_structure = not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten"
    return not fused_or_structure and target not in ASSERTIONS and not is_supported(target)


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def _maps(node: fx.Node) -> bool:
    """Whether a node is a step of ``torch.vmap``, which decompositions write out."""
    return getattr(node.target, "__module__", None) == "torch._functorch.predispatch"


def _types(node: fx.Node) -> Any:
    value = node.meta.get("val")
    for tensor in value if isinstance(value, tuple | list) else (value,):
        if isinstance(tensor, torch.Tensor):
            _require_static(tensor, node)
    return types_of(value)


def _require_static(tensor: torch.Tensor, node: fx.Node) -> None:
    """``CaptureError`` if the node's tensor has a type that forgec does not know."""
    if tensor.dtype not in TORCH_DTYPES:
        source = node_source(node)
        raise CaptureError(
            f"{source.aten} gives a tensor of {tensor.dtype}, an element type that forgec does not have",
            str(source),
            "of complex numbers only sums, products, polar, exp, conj and views, as rotations have them"
            if tensor.is_complex()
            else f"convert it in the model to one of {', '.join(d.value for d in DType)}",
        )
    if any(not isinstance(n, int) for n in tensor.shape):
        source = node_source(node)
        if any(free_unbacked_symbols(n) for n in tensor.shape):
            raise CaptureError(
                f"the shape of what {source.aten} gives depends on values", str(source), _FIXED_SIZE
            )
        raise CaptureError(
            f"the shape {tuple(tensor.shape)} is not static",
            str(source),
            "export without dynamic shapes; compile once per size",
        )


def types_of(value: Any) -> Any:
    """IR type of a tensor, a tuple of types for several, None for all else."""
    if isinstance(value, torch.Tensor):
        return tensor_type(value)
    if isinstance(value, tuple | list):
        return tuple(tensor_type(v) for v in value)
    return None


_LOGGERS = ("torch.export", "torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What torch's tracing says of its own internals is of no use to forgec's user, nor the traceback that
    fake tensors log of an error which is raised anyway."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
    log(4, said.getvalue())


_HELD = "; what is the same in all calls is known if the module holds it as a buffer and is not given it"
_FIXED_SIZE = (
    f"a fixed size instead of one computed from tensor values (nonzero, boolean index, .item()){_HELD}"
)
_NO_BRANCH = f"torch.where or index arithmetic instead of a Python branch on tensor values{_HELD}"
_HINTS = [
    ("data-dependent", _NO_BRANCH),
    ("DataDependent", _NO_BRANCH),
    ("Unbacked", _FIXED_SIZE),
    ("not a known type", "return tensors, tuples, lists or dicts (for language models: use_cache=False)"),
    ("Unsupported input type", "tensors, numbers, or nested tuples and dicts of them as example inputs"),
    ("shape", "example inputs whose shapes the model's forward accepts; run model(*args) once to see"),
]


def _explain(error: Exception, where: str) -> CaptureError:
    text = str(error).strip()
    kind = type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0] if lines else kind
    hint = next((h for key, h in _HINTS if key in text or key in kind), None)
    cause: BaseException | None = error
    frame = None
    while cause is not None and frame is None:
        frame = user_frame(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    return CaptureError(
        f"torch.export cannot capture {where}: {kind}: {first}",
        frame,
        hint or "run the model eagerly on the same inputs to see whether the model itself fails",
    )
