"""Trace a module in a fraction of what ``torch.export`` takes.

The module's own code runs once, on fake tensors, in the context that an export gives it, and every operator
that it calls is written down at the same level, before autograd and decompositions. A branch on a size is
taken as the code takes it. Whatever is not a pure operator on tensors of known origin raises
:class:`TraceError`, and so does a parameter, buffer or attribute that the code sets; then the caller exports.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import torch
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._export.non_strict_utils import _NonStrictTorchFunctionHandler
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.export._trace import _compiling_state_context
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from ..ir.program import Source
from ..tensors import lifted_name
from .attributes import attributes_kept
from .blocks import BLOCK_OP, empty_results
from .changes import SCATTERED, memory_of, overlap, place_of, pure_form
from .complex_pairs import Pairs, real_form, rule_of
from .export import ASSERTIONS, ExportedGraph, has_no_lowering, quiet, simpler_operators, types_of
from .known import KnownValues, is_mask
from .own_code import without_onednn
from .ranges import Ranges
from .source import imported_from, user_line_of

__all__ = ["TraceError", "ValueNeededError", "trace"]

_LIFTED_LIMIT = 2**20
"""Bytes of a tensor that the code holds outside of parameters and buffers."""


class TraceError(Exception):
    """The module cannot be traced in this way."""


class ValueNeededError(TraceError):
    """A size or a branch depends on values that the trace does not know."""


def trace(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[ExportedGraph, Any]:
    """The graph of a call, as :func:`.export.export_module` gives it, and what the call returns, with tensors
    that have no values; :class:`TraceError` if only an export can tell."""
    try:
        with quiet():
            return _traced(module, args, kwargs)
    except TraceError:
        raise
    except Exception as error:  # the model's own code, or a fake tensor without the value asked for
        raise TraceError(f"{type(error).__name__}: {error}") from error


def _traced(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[ExportedGraph, Any]:
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # a table that the code holds is a constant
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    recorder = _Recorder(module, fake)
    with recorder.weights(), ExitStack() as stack:
        given = [recorder.input(x) if isinstance(x, torch.Tensor) else x for x in leaves]
        stack.enter_context(fake)
        stack.enter_context(torch.no_grad())
        stack.enter_context(_compiling_state_context())
        stack.enter_context(_NonStrictTorchFunctionHandler())
        stack.enter_context(Ranges(recorder.node))
        stack.enter_context(enable_python_dispatcher())
        stack.enter_context(recorder)
        given_args, given_kwargs = pytree.tree_unflatten(given, spec)
        with attributes_kept(module):
            result = module(*given_args, **given_kwargs)
        recorder.refuse_changes()
    recorder.graph.output(tuple(recorder.node(x) for x in pytree.tree_leaves(result) if _is_tensor(x)))
    return ExportedGraph(recorder.graph, recorder.constants, set()), result


@dataclass(frozen=True)
class _Part:
    """How a node is a part of another."""

    func: torch._ops.OpOverload
    whole: Any
    args: Any
    kwargs: Any


class _Recorder(ProxyTorchDispatchMode):
    """Writes down the operators that are called while it is entered.

    It takes the place of torch's own tracing mode before autograd, the only one that operators are handed to
    undecomposed. A tensor is known by its identity and not kept alive: torch copies what somebody else holds.
    """

    def __init__(self, module: nn.Module, fake: FakeTensorMode) -> None:
        super().__init__(None, "fake", pre_dispatch=True)
        self.graph = fx.Graph()
        self.constants: dict[str, torch.Tensor] = {}
        self._module = module
        self._fake = fake
        self._paths = {id(m): path for path, m in module.named_modules()}
        self._nodes: Any = WeakTensorKeyDictionary()
        self._real: Any = WeakTensorKeyDictionary()  # real forms of complex tensors
        self._stand_ins: list[tuple[str, dict[str, Any], str, torch.Tensor]] = []
        self._parts: dict[fx.Node, _Part] = {}
        self._given: set[int] = set()  # memory of inputs and constants
        self._known = KnownValues(self.constants)

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Fake tensors in the place of the module's parameters and buffers, known as constants."""
        tables = [
            (path, table)
            for kind in ("_parameters", "_buffers")
            for path, m in self._module.named_modules()
            for table in (vars(m)[kind],)
        ]
        kept = [dict(table) for _, table in tables]
        fakes: dict[int, torch.Tensor] = {}
        try:
            for path, table in tables:
                for name, tensor in table.items():
                    if tensor is not None:
                        full = f"{path}.{name}" if path else name
                        fake = fakes[id(tensor)] if id(tensor) in fakes else self._faked(tensor)
                        fakes[id(tensor)] = table[name] = fake
                        self._constant(full, *self._real_forms(tensor.detach(), fake))
                        self._stand_ins.append((full, table, name, fake))
            yield
        finally:
            for (_, table), entries in zip(tables, kept, strict=True):
                table.update(entries)

    def refuse_changes(self) -> None:
        """:class:`TraceError` if the code put another tensor in the place of a parameter or buffer."""
        for full, table, name, stand_in in self._stand_ins:
            if table.get(name) is not stand_in:
                raise TraceError(f"{full} is exchanged")

    def input(self, tensor: torch.Tensor) -> torch.Tensor:
        """A fake tensor for an input, which may be given twice or be a weight too."""
        node = self.graph.placeholder("input")
        given = tensor.detach()
        fake = self._faked(given)
        real, stand_in = self._real_forms(given, fake)
        node.meta["type"] = types_of(real)
        self._given.add(memory_of(stand_in))
        self._know(stand_in, node)
        return fake

    def node(self, tensor: torch.Tensor) -> fx.Node:
        """The node whose value a tensor is."""
        if tensor in self._nodes:
            return self._nodes[tensor]
        large = tensor.numel() * tensor.element_size() > _LIFTED_LIMIT
        if isinstance(tensor, FakeTensor) or tensor.is_complex() or large:
            raise TraceError(f"a tensor {list(tensor.shape)} comes from no operator, or is complex")
        self._lifted(tensor, tensor)
        return self._nodes[tensor]

    def _lifted(self, tensor: torch.Tensor, stand_in: torch.Tensor) -> torch.Tensor:
        """A constant that is no parameter or buffer."""
        with torch.utils._python_dispatch._disable_current_modes():
            name = lifted_name(tensor)
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            return self._constant(name, tensor, stand_in)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            raise TraceError(f"{func} is no operator")
        if torch.is_autocast_enabled("cpu"):
            raise TraceError(f"{func} is called under autocast, which acts after it")
        if func is torch.ops.aten.lift_fresh.default:
            func = torch.ops.aten.lift_fresh_copy.default
        if func is torch.ops.aten.detach_.default:
            return args[0]  # of a new tensor; there are no gradients here
        if func._schema.is_mutable:
            return self._changed(func, args, kwargs)
        if has_no_lowering(func) and (simpler := simpler_operators({func})):
            with self, without_onednn():
                return simpler[func](*args, **kwargs)
        if func is torch.ops.aten.index_put.default and args[2].ndim and any(map(is_mask, args[1])):
            args = (args[0], self._places(args[1]) or args[1], *args[2:])
        try:
            result: Any = empty_results(args[1]) if func is BLOCK_OP else func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            return self._by_value(func, args, kwargs, error)
        results, _ = pytree.tree_flatten(result)
        if not any(map(_is_tensor, results)) or func in ASSERTIONS:
            # A number that fake tensors can tell depends on no input's values.
            return result
        if any(_is_tensor(x) and x.is_complex() for x in pytree.tree_leaves((args, kwargs, result))):
            return self._complex(func, args, kwargs, result)
        node = self._call(func, args, kwargs, result)
        if func in SCATTERED:
            self._parts[node] = _Part(func, node.args[0], node.args[1:], node.kwargs)
        if _is_tensor(result):
            self._know(result, node)
            return result
        for index, value in enumerate(result):
            if _is_tensor(value):
                item = self.graph.call_function(operator.getitem, (node, index))
                item.meta = {
                    "type": types_of(value),
                    "source": replace(node.meta["source"], aten=str(operator.getitem)),
                }
                self._know(value, item)
        return result

    def _by_value(self, func: torch._ops.OpOverload, args: Any, kwargs: Any, error: Exception) -> Any:
        """What an operator returns whose result's size, or which as a number, depends on values."""
        given = [x for x in pytree.tree_leaves((args, kwargs)) if _is_tensor(x)]
        values = {id(x): self._known.of(self.node(x)) for x in given}
        if all(value is not None for value in values.values()):
            args, kwargs = pytree.tree_map_only(torch.Tensor, lambda x: values[id(x)], (args, kwargs))
            with torch.utils._python_dispatch._disable_current_modes():
                result = func(*args, **kwargs)
            return pytree.tree_map_only(torch.Tensor, lambda x: self._lifted(x, self._faked(x)), result)
        if func is torch.ops.aten.index.Tensor and (places := self._places(args[1])):
            with self:
                return func(args[0], places)
        with self:
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            raise ValueNeededError(f"{type(error).__name__}: {error}") from error
        return result

    def _places(self, indices: Any) -> list[Any] | None:
        """Indices with the places that masks show instead of the masks; None if a mask is not known."""
        found: list[Any] = []
        for index in indices:
            mask = self._known.of(self.node(index)) if is_mask(index) else None
            if is_mask(index) and mask is None:
                return None
            if mask is None:
                found.append(index)
                continue
            with torch.utils._python_dispatch._disable_current_modes():
                places = mask.nonzero(as_tuple=True)
            found += [self._lifted(x, self._faked(x)) for x in places]
        return found

    def _complex(self, func: torch._ops.OpOverload, args: Any, kwargs: Any, result: Any) -> Any:
        """What an operator on complex tensors returns, written down as operators on their pairs."""
        rule = rule_of(func)
        if rule is None:
            raise TraceError(f"{func} on complex numbers")
        args, kwargs = pytree.tree_map_only(torch.Tensor, self._paired, (args, kwargs))
        with self:
            made = rule(*args, **kwargs)
            results, spec = pytree.tree_flatten(result)
            for index, pairs in enumerate(made if isinstance(made, tuple) else (made,)):
                wanted = results[index]
                real = pairs.real if isinstance(pairs, Pairs) else pairs
                shape = (*wanted.shape, 2) if wanted.is_complex() else wanted.shape
                if real.is_complex() or real.shape != shape:
                    raise TraceError(f"{func} on complex numbers")
                real = real.to(wanted.dtype.to_real())
                if wanted.is_complex():
                    self._real[wanted] = real
                else:
                    results[index] = real
        return pytree.tree_unflatten(results, spec)

    def _paired(self, tensor: torch.Tensor) -> torch.Tensor | Pairs:
        if not tensor.is_complex():
            return tensor
        if tensor not in self._real:
            raise TraceError(f"a complex tensor {list(tensor.shape)} comes from no operator")
        return Pairs(self._real[tensor])

    def _real_forms(self, tensor: torch.Tensor, fake: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a tensor and the fake one in its place."""
        if not tensor.is_complex():
            return tensor, fake
        real = real_form(tensor)
        self._real[fake] = stand_in = self._faked(real)
        return real, stand_in

    def _changed(self, func: torch._ops.OpOverload, args: Any, kwargs: Any) -> torch.Tensor:
        """A tensor after an operator that changes it: from here on it is what the operator that gives a new
        one returns, and what it is a part of has that in its place. That is all there is to it where no other
        tensor that is left lies in the same memory."""
        pure = pure_form(func)
        tensor = args[0] if args else None
        if pure is None or not isinstance(tensor, FakeTensor):
            raise TraceError(f"{func} changes its operand")
        place = place_of(tensor)
        same = [x for x in self._nodes if isinstance(x, FakeTensor) and place_of(x) == place]
        wholes = self._wholes(tensor)
        if self._has_others(tensor, [*same, *(x for _, some in wholes for x in some)]):
            raise TraceError(f"{func} changes memory that an input, a constant or another tensor has too")
        with self:
            result = pure(*args, **kwargs)
        if types_of(result) != types_of(tensor):
            raise TraceError(f"{func} changes its operand, which {pure} does not resemble")
        node = self.node(result)
        for twin in same:
            self._know(twin, node)
        for part, some in wholes:
            whole = self.graph.call_function(
                SCATTERED[part.func], (part.whole, node, *part.args), part.kwargs
            )
            whole.meta = {"type": part.whole.meta["type"], "source": node.meta["source"]}
            self._parts[node] = replace(part, whole=whole)
            for other in some:
                self._know(other, whole)
            node = whole
        return tensor

    def _wholes(self, tensor: torch.Tensor) -> list[tuple[_Part, list[torch.Tensor]]]:
        """What a tensor is a part of, from the inside, and the tensors left that are the whole."""
        found = []
        part = self._parts.get(self.node(tensor))
        while part is not None:
            found.append((part, [x for x, node in self._nodes.items() if node is part.whole]))
            part = self._parts.get(part.whole)
        return found

    def _has_others(self, tensor: torch.Tensor, but: list[torch.Tensor]) -> bool:
        """Whether an input, a constant or a tensor that is left, ``but`` these, lies where a tensor does."""
        expected = set(map(id, but))
        return memory_of(tensor) in self._given or any(
            id(other) not in expected and isinstance(other, FakeTensor) and overlap(other, tensor)
            for other in self._nodes
        )

    def _call(self, func: torch._ops.OpOverload, args: Any, kwargs: Any, result: Any) -> fx.Node:
        operands, named = pytree.tree_map_only(torch.Tensor, self.node, (args, kwargs))
        node = self.graph.call_function(func, operands, named)
        source = self._source(str(func).removesuffix(".default"), sys._getframe(2))
        node.meta = {"type": types_of(result), "source": source}
        return node

    def _constant(self, name: str, tensor: torch.Tensor, stand_in: torch.Tensor) -> torch.Tensor:
        node = self._nodes.get(stand_in)
        self.constants[name] = tensor
        self._given.add(memory_of(stand_in))
        if node is None:
            node = self.graph.get_attr(name)
            node.meta = {"type": types_of(tensor), "source": Source("get_attr", None, None, None)}
        return self._know(stand_in, node)

    def _faked(self, tensor: torch.Tensor) -> torch.Tensor:
        """A fake tensor for one that stays, where possible without torch's descriptions of it."""
        if not _is_plain(tensor):
            return self._fake.from_tensor(tensor, static_shapes=True)
        meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        return FakeTensor(self._fake, meta, tensor.device)

    def _know(self, tensor: torch.Tensor, node: fx.Node) -> torch.Tensor:
        self._nodes[tensor] = node
        return tensor

    def _source(self, aten: str, frame: FrameType | None) -> Source:
        """Line of the model's innermost ``forward``, which is what an export notes, and path of the innermost
        module."""
        line: tuple[str | None, int | None] = (None, None)
        path = None
        if imported := imported_from(fx.traceback.get_current_meta()):
            return Source(aten, None, None, imported)
        while frame is not None and (line[0] is None or path is None):
            code = frame.f_code
            if line[0] is None and code.co_name == "forward":
                line = user_line_of(code.co_filename, frame.f_lineno)
            elif path is None and code is _CALL:
                path = self._paths.get(id(frame.f_locals["self"]))
            frame = frame.f_back
        return Source(aten, *line, path or None)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether shape, strides, element type and device say all of a tensor but its values."""
    if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.layout is not torch.strided:
        return False
    special = tensor.is_quantized or tensor.is_conj() or tensor.is_neg()
    return not special and tensor.storage_offset() == 0


_CALL = nn.Module._call_impl.__code__


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
