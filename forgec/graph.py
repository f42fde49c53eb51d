"""What capture hands to the passes: FX graphs, a constant table, the call signature.

Node conventions, kept by capture and by every pass:

- ``placeholder`` nodes are tensors given at run time; ``get_attr`` nodes are constants; every other node is a
  ``call_function`` of an ATen overload, of a fused op (``passes.fused``), of :func:`call_block`,
  :func:`read_state`, :func:`write_state` or of ``operator.getitem`` on a node with several results.
- ``node.meta["type"]`` is the IR type of the value (a tuple of types where there are several results) and
  ``node.meta["source"]`` the :class:`~forgec.ir.program.Source` in the user's model.
- Values are functional: no node changes its operands. Strides mean nothing; layout is decided at lowering.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from .ir.program import Source
from .ir.stored import Stored
from .ir.types import DType, TensorType

if TYPE_CHECKING:
    from .executable.signature import Signature

__all__ = [
    "STRUCTURE",
    "TORCH_DTYPES",
    "Block",
    "CapturedGraph",
    "call_block",
    "inline_block",
    "new_call",
    "node_type",
    "operators",
    "read_state",
    "tensor_type",
    "torch_dtype",
    "write_state",
]

TORCH_DTYPES = {
    torch.float64: DType.F64,
    torch.float32: DType.F32,
    torch.float16: DType.F16,
    torch.bfloat16: DType.BF16,
    torch.int64: DType.I64,
    torch.int32: DType.I32,
    torch.int16: DType.I16,
    torch.int8: DType.I8,
    torch.uint8: DType.U8,
    torch.bool: DType.BOOL,
}
_BACK = {ir: t for t, ir in TORCH_DTYPES.items()}


def torch_dtype(dtype: DType) -> torch.dtype:
    return _BACK[dtype]


def tensor_type(tensor: torch.Tensor) -> TensorType:
    """IR type of a (fake or real) tensor; ``KeyError`` for an element type that the IR lacks."""
    return TensorType(TORCH_DTYPES[tensor.dtype], tuple(int(n) for n in tensor.shape))


def call_block(block: str, instance: str, *args: Any) -> Any:
    """FX target: run a block's graph with one instance's constants; gives a tuple."""
    raise NotImplementedError("blocks are run by forgec.capture.evaluate")


def read_state(name: str) -> Any:
    """FX target: the value of the state ``name`` at the start of a run."""
    raise NotImplementedError("states are read by forgec.capture.evaluate")


def write_state(name: str, value: Any) -> None:
    """FX target: at the end of a run, the state ``name`` takes the value."""
    raise NotImplementedError("states are written by forgec.capture.evaluate")


STRUCTURE = (operator.getitem, call_block, read_state, write_state)
"""Call targets that are no operators of the model."""


@dataclass
class Block:
    """A repeated block of the model, traced once.

    ``graph`` reads its constants under local names (the parameter's name inside the block); ``instances``
    maps each call of the block to the program's constant for every local name. A local name missing there is
    a constant that all instances share.
    """

    name: str
    graph: fx.Graph
    instances: dict[str, dict[str, str]]


@dataclass
class CapturedGraph:
    """The captured model. ``constants`` maps names to tensors that share the model's own memory; tied weights
    are one entry."""

    name: str
    graph: fx.Graph
    blocks: dict[str, Block]
    constants: dict[str, torch.Tensor]
    states: dict[str, torch.Tensor]
    """Tensors that the model changes as it runs, with their initial values; one on the meta device is zero
    at first."""
    signature: Signature
    mode: str
    """``blocks``, ``full`` or ``exported``: how the graphs were obtained."""
    notes: list[str] = field(default_factory=list)
    stored: Stored = field(default_factory=Stored)
    """Codes that the model brings for some of the constants."""

    def graphs(self) -> Iterator[tuple[str, fx.Graph, int]]:
        """Name, graph, and how often one run executes it; the main graph first."""
        yield "main", self.graph, 1
        counts = dict.fromkeys(self.blocks, 0)
        for node in self.graph.find_nodes(op="call_function", target=call_block):
            counts[node.args[0]] += 1
        for name, block in self.blocks.items():
            yield name, block.graph, counts[name]

    def extent(self) -> tuple[int, int]:
        """Operators of one run, calls expanded, as :func:`operators` counts them; bytes of their results."""
        nodes = nbytes = 0
        for _, graph, times in self.graphs():
            found = operators(graph)
            nodes += len(found) * times
            nbytes += sum(_type_bytes(node.meta.get("type")) for node in found) * times
        return nodes, nbytes

    def node_count(self) -> int:
        """The operators alone."""
        return self.extent()[0]

    def copy(self) -> CapturedGraph:
        """Graphs copied, tensors shared."""
        return CapturedGraph(
            self.name,
            copy_graph(self.graph),
            {name: Block(name, copy_graph(b.graph), b.instances) for name, b in self.blocks.items()},
            dict(self.constants),
            self.states,
            self.signature,
            self.mode,
            list(self.notes),
            self.stored,
        )


def _type_bytes(types: TensorType | tuple[TensorType, ...] | None) -> int:
    if types is None:
        return 0
    return types.nbytes if isinstance(types, TensorType) else sum(t.nbytes for t in types)


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """A copy with its output node and the nodes' metadata."""
    new = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        mapping[node] = new.node_copy(node, mapping.__getitem__)
    return new


def inline_block(captured: CapturedGraph, name: str) -> None:
    """Put a block's body in the place of its calls in the main graph, and forget the block."""
    block = captured.blocks.pop(name)
    calls = captured.graph.find_nodes(op="call_function", target=call_block)
    for call in [c for c in calls if c.args[0] == name]:
        binding = block.instances[str(call.args[1])]
        given = iter(call.args[2:])
        copies: dict[fx.Node, Any] = {}
        with captured.graph.inserting_before(call):
            for node in block.graph.nodes:
                if node.op == "placeholder":
                    copies[node] = next(given)
                elif node.op != "output":
                    copies[node] = captured.graph.node_copy(node, copies.__getitem__)
                    if node.op == "get_attr":
                        copies[node].target = binding.get(str(node.target), node.target)
                else:
                    results = [copies[value] for value in node.args[0]]
        for item in list(call.users):
            item.replace_all_uses_with(results[item.args[1]])
            captured.graph.erase_node(item)
        captured.graph.erase_node(call)


def operators(graph: fx.Graph) -> list[fx.Node]:
    """The operators of a graph that count as nodes: all calls but :data:`STRUCTURE`, and but expressions over
    weights alone (evaluated once, when the artifact is written)."""
    constant: set[fx.Node] = set()
    found = []
    for node in graph.nodes:
        if node.op == "get_attr":
            constant.add(node)
        elif node.op == "call_function":
            inputs = node.all_input_nodes
            if (
                inputs
                and any(n in constant for n in inputs)
                and not any(_is_run_time(n, constant) for n in inputs)
            ):
                constant.add(node)
            elif node.target not in STRUCTURE:
                found.append(node)
    return found


def _is_run_time(node: fx.Node, constant: set[fx.Node]) -> bool:
    return node not in constant and bool(node.all_input_nodes or node.op == "placeholder")


def node_type(node: fx.Node) -> TensorType:
    """IR type of a node with one tensor result."""
    return node.meta["type"]


def new_call(
    graph: fx.Graph,
    target: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    like: fx.Node,
    type: TensorType | tuple[TensorType, ...] | None = None,
) -> fx.Node:
    """A call inserted at the graph's insertion point; type and source taken from ``like`` unless given."""
    node = graph.call_function(target, args, kwargs or {})
    node.meta["type"] = like.meta["type"] if type is None else type
    source: Source | None = like.meta.get("source")
    node.meta["source"] = source
    return node
