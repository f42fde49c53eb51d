"""Trace a module in a fraction of what ``torch.export`` takes: again for other sizes, or a block.

``torch.export`` has captured the module before, or what the block stands in. Here the module's own code runs
once more, on fake tensors of the new sizes, in the context that an export gives it, and every operator that
it calls is written down at the same level, before autograd and decompositions. Nothing is carried over from
the other sizes: a branch on a size is taken as the code takes it. Whatever is not a pure operator on tensors
of known origin raises :class:`RetraceError`, and so does a parameter, buffer or attribute that the code sets;
then the caller exports.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._export.non_strict_utils import _NonStrictTorchFunctionHandler
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export._trace import _compiling_state_context
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from ..ir.program import Source
from .attributes import attributes_kept
from .blocks import BLOCK_OP, empty_results
from .export import ASSERTIONS, ExportedGraph, has_no_lowering, types_of
from .source import user_line_of
from .tensors import lifted_name

__all__ = ["RetraceError", "retrace", "retrace_module"]

_LIFTED_LIMIT = 2**20
"""Bytes of a tensor that the code holds outside of parameters and buffers."""


class RetraceError(Exception):
    """The module cannot be traced in this way."""


def retrace_module(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ExportedGraph:
    """The graph of a call, as :func:`.export.export_module` gives it; :class:`RetraceError` if only that can
    tell."""
    return retrace(module, args, kwargs)[0]


def retrace(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[ExportedGraph, Any]:
    """The graph of a call, and what it returns, with tensors that have no values."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # a table that the code holds is a constant
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    recorder = _Recorder(module, fake)
    with recorder.weights(), ExitStack() as stack:
        given = [recorder.input(x) if isinstance(x, torch.Tensor) else x for x in leaves]
        stack.enter_context(fake)
        stack.enter_context(torch.no_grad())
        stack.enter_context(_compiling_state_context())
        stack.enter_context(_NonStrictTorchFunctionHandler())
        stack.enter_context(enable_python_dispatcher())
        stack.enter_context(recorder)
        try:
            given_args, given_kwargs = pytree.tree_unflatten(given, spec)
            with attributes_kept(module):
                result = module(*given_args, **given_kwargs)
            recorder.refuse_changes()
        except RetraceError:
            raise
        except Exception as error:  # the model's own code, or a fake tensor without the value asked for
            raise RetraceError(f"{type(error).__name__}: {error}") from error
    recorder.graph.output(tuple(recorder.node(x) for x in pytree.tree_leaves(result) if _is_tensor(x)))
    return ExportedGraph(recorder.graph, recorder.constants, set()), result


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
        self._stand_ins: list[tuple[str, dict[str, Any], str, torch.Tensor]] = []
        self._fakes: dict[int, torch.Tensor] = {}

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
        try:
            for path, table in tables:
                for name, tensor in table.items():
                    if tensor is not None:
                        full = f"{path}.{name}" if path else name
                        table[name] = self._constant(full, tensor.detach(), self._faked(tensor))
                        self._stand_ins.append((full, table, name, table[name]))
            yield
        finally:
            for (_, table), entries in zip(tables, kept, strict=True):
                table.update(entries)

    def refuse_changes(self) -> None:
        """:class:`RetraceError` if the code put another tensor in the place of a parameter or buffer."""
        for full, table, name, stand_in in self._stand_ins:
            if table.get(name) is not stand_in:
                raise RetraceError(f"{full} is exchanged")

    def input(self, tensor: torch.Tensor) -> torch.Tensor:
        """A fake tensor for an input."""
        node = self.graph.placeholder("input")
        node.meta["type"] = types_of(tensor)
        return self._know(self._faked(tensor), node)

    def node(self, tensor: torch.Tensor) -> fx.Node:
        """The node whose value a tensor is."""
        if tensor in self._nodes:
            return self._nodes[tensor]
        if isinstance(tensor, FakeTensor) or tensor.numel() * tensor.element_size() > _LIFTED_LIMIT:
            raise RetraceError(f"a tensor {list(tensor.shape)} comes from no operator")
        with torch.utils._python_dispatch._disable_current_modes():
            name = lifted_name(tensor)
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            self._constant(name, tensor, tensor)
        return self._nodes[tensor]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            raise RetraceError(f"{func} is no operator")
        if func is torch.ops.aten.lift_fresh.default:
            func = torch.ops.aten.lift_fresh_copy.default
        if func is torch.ops.aten.detach_.default:
            return args[0]  # of a new tensor; there are no gradients here
        if func._schema.is_mutable:
            raise RetraceError(f"{func} changes its operand")
        result: Any = empty_results(args[1]) if func is BLOCK_OP else func(*args, **kwargs)
        results, _ = pytree.tree_flatten(result)
        if not any(map(_is_tensor, results)) or func in ASSERTIONS:
            # A number that fake tensors can tell depends on no input's values.
            return result
        if has_no_lowering(func):
            raise RetraceError(f"{func} is one that torch.export replaces")
        operands, named = pytree.tree_map_only(torch.Tensor, self.node, (args, kwargs))
        node = self.graph.call_function(func, operands, named)
        source = self._source(str(func).removesuffix(".default"), sys._getframe(1))
        node.meta = {"type": types_of(result), "source": source}
        if _is_tensor(result):
            self._know(result, node)
            return result
        for index, value in enumerate(result):
            if _is_tensor(value):
                item = self.graph.call_function(operator.getitem, (node, index))
                item.meta = {"type": types_of(value), "source": replace(source, aten=str(operator.getitem))}
                self._know(value, item)
        return result

    def _constant(self, name: str, tensor: torch.Tensor, stand_in: torch.Tensor) -> torch.Tensor:
        node = self._nodes.get(stand_in)
        self.constants[name] = tensor
        if node is None:
            node = self.graph.get_attr(name)
            node.meta = {"type": types_of(tensor), "source": Source("get_attr", None, None, None)}
        return self._know(stand_in, node)

    def _faked(self, tensor: torch.Tensor) -> torch.Tensor:
        """The fake tensor of a tensor that lives longer than the trace, made without the descriptions that
        torch keeps of it."""
        if not _is_plain(tensor):
            return self._fake.from_tensor(tensor, static_shapes=True)
        fake = self._fakes.get(id(tensor))
        if fake is None:
            meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            fake = self._fakes[id(tensor)] = FakeTensor(self._fake, meta, tensor.device)
        return fake

    def _know(self, tensor: torch.Tensor, node: fx.Node) -> torch.Tensor:
        self._nodes[tensor] = node
        return tensor

    def _source(self, aten: str, frame: FrameType | None) -> Source:
        """Line of the model's innermost ``forward``, which is what an export notes, and path of the innermost
        module."""
        line: tuple[str | None, int | None] = (None, None)
        path = None
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
