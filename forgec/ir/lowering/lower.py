"""Lower a captured graph: one IR function per FX graph, calls with constant parameters, constants with
recipes.

Linear in the number of nodes. A pure operator without a converter stays PyTorch's; all others are reported
together.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from ...aten import encode
from ...aten import operator as aten_operator
from ...errors import ForgecError, InternalError, UnsupportedOpError
from ...graph import STRUCTURE, Block, CapturedGraph, call_block, read_state, tensor_type, write_state
from ..op import IRTypeError, get
from ..ops.aten import types_text
from ..program import (
    Apply,
    Constant,
    ConstParam,
    Function,
    Leaf,
    Literal,
    Operand,
    Program,
    Recipe,
    Register,
    Source,
    StateRef,
)
from ..types import TensorType
from . import (  # noqa: F401  (register converters)
    attention,
    elementwise,
    indexing,
    neural,
    pooling,
    reduction,
    resampling,
    sampling,
    shape,
    solvers,
    windows,
)
from .builder import Const, Constants, FunctionBuilder
from .registry import bind, find, target_name, wanted

__all__ = ["Lowered", "lower"]


@dataclass
class Lowered:
    """The program, and the tensors that its recipes read by name (the model's own memory, and literals)."""

    program: Program
    tensors: dict[str, torch.Tensor | np.ndarray]


def lower(captured: CapturedGraph) -> Lowered:
    """The program of a captured (and optimised) graph.

    Raises ``UnsupportedOpError`` naming every operator without a converter, with its count and source lines.
    """
    _check_supported(captured)
    constants = Constants()
    functions: dict[str, Function] = {}
    params: dict[str, dict[Recipe, ConstParam]] = {}
    leaf_types = {name: tensor_type(t) for name, t in captured.constants.items()}
    for name, block in captured.blocks.items():
        lowering = _GraphLowering(captured, constants, leaf_types, block=block)
        functions[name] = lowering.function(name, block.graph)
        params[name] = lowering.builder.const_params
    main = _GraphLowering(captured, constants, leaf_types, callees=functions, params=params)
    inputs = [leaf.name for leaf in captured.signature.inputs]
    outputs = [leaf.name for leaf in captured.signature.results]
    entry = main.function("main", captured.graph, inputs, outputs)
    table = {ref.name: Constant(ref.name, ref.type, recipe) for recipe, ref in constants.recipes.items()}
    states = {ref.name: ref.type for ref in main.states.values()}
    program = Program("main", {"main": entry, **functions}, table, states)
    return Lowered(program, {**captured.constants, **constants.literals})


class _GraphLowering:
    def __init__(
        self,
        captured: CapturedGraph,
        constants: Constants,
        leaf_types: Mapping[str, Any],
        *,
        block: Block | None = None,
        callees: Mapping[str, Function] | None = None,
        params: Mapping[str, dict[Recipe, ConstParam]] | None = None,
    ) -> None:
        self.captured = captured
        self.leaf_types = leaf_types
        self.block = block
        self.callees = callees or {}
        self.params = params or {}
        self.states = {
            name: StateRef(f"s{i}", tensor_type(tensor))
            for i, (name, tensor) in enumerate(captured.states.items())
        }
        first = next(iter(block.instances.values())) if block else {}
        self.local_types = {local: leaf_types[name] for local, name in first.items()}
        self.builder = FunctionBuilder(constants, frozenset(first))
        self.env: dict[fx.Node, Any] = {}

    def function(
        self, name: str, graph: fx.Graph, inputs: list[str] | None = None, outputs: list[str] | None = None
    ) -> Function:
        """Lower one graph; a block's parameters and results are unnamed."""
        builder = self.builder
        params: list[Register] = []
        results: list[Register] = []
        for node in graph.nodes:
            builder.source = node.meta.get("source")
            builder.result_type = node.meta.get("type")
            builder.used = frozenset(user.args[1] for user in node.users if user.target is operator.getitem)
            if node.op == "placeholder":
                params.append(builder.register(node.meta["type"]))
                self.env[node] = params[-1]
            elif node.op == "get_attr":
                self.env[node] = self._constant(str(node.target))
            elif node.op == "output":
                results = [self._result(self.env[value]) for value in node.args[0]]
                if self.block is not None:
                    results = [builder.contiguous(register) for register in results]
            else:
                self.env[node] = self._convert(node)
        builder.body.sort(key=lambda instr: instr.op == "write_state")
        return Function(
            name,
            tuple(params),
            tuple(inputs or [""] * len(params)),
            builder.body,
            tuple(results),
            tuple(outputs or [""] * len(results)),
            tuple(builder.const_params.values()),
        )

    def _constant(self, name: str) -> Any:
        if name in self.local_types:
            return Const(Leaf(name, self.local_types[name]))
        return Const(Leaf(name, self.leaf_types[name]))

    def _result(self, value: Any) -> Register:
        if isinstance(value, Register):
            return value
        return self.builder.emit("copy", self._stored(value))

    def _stored(self, value: Any) -> Any:
        """A constant result needs an instruction that reads it, not another recipe."""
        operand = self.builder.operand(value)
        if not isinstance(value, Const):
            raise InternalError(f"a function cannot return {value!r}")
        return operand

    def _convert(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            return self.env[node.args[0]][node.args[1]]
        if node.target is call_block:
            return self._call(node)
        if node.target is read_state:
            return self.builder.emit("read_state", self.states[str(node.args[0])])
        if node.target is write_state:
            value = self._argument(self.env[node.args[1]])
            self.builder.emit("write_state", self.states[str(node.args[0])], value)
            return None
        name = target_name(node.target)
        found, done = find(name), len(self.builder.body)
        try:
            if found is None:
                return self._through_torch(name, node)
            if isinstance(found, str):
                return self._direct(found, node)
            bound = bind(node)
            kwargs = {key: self._value(bound[key]) for key in wanted(found)}
            return found(self.builder, **kwargs)
        except IRTypeError as error:
            raise InternalError(f"lowering {name}: {error}", str(self.builder.source)) from error
        except UnsupportedOpError as error:
            if not _torch_can(name, node):
                error.where = error.where or str(self.builder.source)
                raise
            del self.builder.body[done:]
            return self._through_torch(name, node)
        except ForgecError as error:
            error.where = error.where or str(self.builder.source)
            raise

    def _direct(self, op: str, node: fx.Node) -> Any:
        record = get(op)
        if not isinstance(node.target, torch._ops.OpOverload):
            bound = bind(node)
            operands = [self._value(bound[spec.name]) for spec in record.operands]
            attrs = {key: bound[key] for key in record.attrs if key in bound}
            return self.builder.emit(op, *operands, **attrs)
        if len(record.operands) == 2:
            return elementwise.binary(self.builder, op, *(self._value(a) for a in node.args[:2]))
        operands = [self._value(a) for a in node.args]
        operands += [None] * (len(record.operands) - len(operands))
        if len(record.operands) == 1:
            operands[0] = elementwise.to_result_dtype(self.builder, operands[0])
        return self.builder.emit(op, *operands[: len(record.operands)])

    def _through_torch(self, name: str, node: fx.Node) -> Any:
        encoded = encode(node.args, node.kwargs, _is_node)
        if encoded is None:
            raise InternalError(f"{name} passed the check for supported operators")
        arguments, tensors = encoded
        types = types_text(node.meta["type"])
        operands = [self.env[x] for x in tensors]
        found = self.builder.emit("aten", *operands, target=name, arguments=arguments, types=types)
        return (found,) if isinstance(node.meta["type"], tuple) and not isinstance(found, tuple) else found

    def _call(self, node: fx.Node) -> tuple[Register, ...]:
        block, instance, *args = node.args
        name = str(block)
        callee = self.callees[name]
        binding = self.captured.blocks[name].instances[str(instance)]
        operands: list[Operand] = [self._argument(self.env[a]) for a in args]
        for recipe in self.params[name]:
            operands.append(self.builder.constants.ref(_substitute(recipe, binding)))
        return self.builder.call(name, operands, [r.type for r in callee.results])

    def _argument(self, value: Any) -> Register:
        return self.builder.contiguous(self._result(value))

    def _value(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.env[value]
        if isinstance(value, list | tuple):
            return [self._value(v) for v in value]
        return value


def _substitute(recipe: Recipe, binding: Mapping[str, str]) -> Recipe:
    """The recipe with a block's local names replaced by one instance's."""
    if isinstance(recipe, Leaf):
        return Leaf(binding.get(recipe.name, recipe.name), recipe.type)
    args = tuple(a if a is None or isinstance(a, Literal) else _substitute(a, binding) for a in recipe.args)
    return Apply(recipe.op, args, recipe.attrs, recipe.type)


def _is_node(value: Any) -> bool:
    return isinstance(value, fx.Node)


def _torch_can(name: str, node: fx.Node) -> bool:
    """Whether the operator can stay PyTorch's: pure, and with arguments that can be written down."""
    types = node.meta.get("type")
    types = types if isinstance(types, tuple) else (types,)
    if not types or not all(isinstance(t, TensorType) for t in types):
        return False
    try:
        aten_operator(name)
    except UnsupportedOpError:
        return False
    encoded = encode(node.args, node.kwargs, _is_node)
    return encoded is not None and bool(encoded[1])


def _check_supported(captured: CapturedGraph) -> None:
    missing: dict[str, list[Source]] = {}
    for _, graph, times in captured.graphs():
        for node in graph.nodes:
            if node.op != "call_function" or node.target in STRUCTURE:
                continue
            name = target_name(node.target)
            if find(name) is None and not _torch_can(name, node):
                missing.setdefault(name, []).extend([node.meta["source"]] * max(times, 1))
    if missing:
        lines = [f"{name} ({len(sources)} times, first at {sources[0]})" for name, sources in missing.items()]
        counted = "1 operator has" if len(missing) == 1 else f"{len(missing)} operators have"
        raise UnsupportedOpError(
            f"{counted} no lowering:\n    " + "\n    ".join(lines),
            hint="rewrite these lines of the model with supported operators, or move them out of the model",
        )
