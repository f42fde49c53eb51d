"""Repeated blocks: find them by running the model once, then trace each kind once.

A transformer is a list of blocks that differ only in their weights. One recorded run of the model shows what
each child of an ``nn.ModuleList`` or ``nn.Sequential`` returns. Then, while the whole model is exported,
calling such a child emits one opaque operator with its results' types instead of its body, so the trace of
the model does not grow with its depth. Calls are of one *kind* when class, sub-modules, parameter shapes,
plain attributes, call structure and tensor types agree; an integer attribute that only counts the position in
the list does not matter. One representative of each kind is exported on its own. (What a block is *called
with* is taken from the export, not from the recorded run: models choose other masks when they are traced.)

That two blocks of one kind compute the same is a conclusion from their structure, so ``compile`` checks the
result against eager on the example and falls back to the full trace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from ..graph import TORCH_DTYPES, tensor_type, torch_dtype
from ..ir.types import TensorType
from .attributes import attributes_kept

__all__ = [
    "BLOCK_OP",
    "BlockCall",
    "Recorded",
    "Returned",
    "candidates",
    "empty_results",
    "forwards",
    "is_block_call",
    "record",
    "run_unchanged",
    "structures",
    "stubbed",
]

_library = torch.library.Library("forgec", "DEF")
_library.define("block(Tensor[] args, int call) -> Tensor[]")
_result_types: dict[int, list[TensorType]] = {}
"""Types of the results of the calls of the export under way, by call number."""


def _block_meta(args: list[torch.Tensor], call: int) -> list[torch.Tensor]:
    return empty_results(call, args[0].device if args else "cpu")


def empty_results(call: int, device: torch.device | str = "cpu") -> list[torch.Tensor]:
    """New tensors of the types that a call gives."""
    return [torch.empty(t.shape, dtype=torch_dtype(t.dtype), device=device) for t in _result_types[call]]


_library.impl("block", _block_meta, "Meta")
torch.library.register_fake("forgec::block", _block_meta, lib=_library)
BLOCK_OP = torch.ops.forgec.block.default


@dataclass(frozen=True)
class Complex:
    """A complex tensor, by the type of its real form."""

    real: TensorType


@dataclass
class Returned:
    """What one call of a candidate returned, tensors as their types."""

    results: list[Any]
    spec: pytree.TreeSpec

    @classmethod
    def of(cls, value: Any) -> Returned:
        results, spec = pytree.tree_flatten(value)
        return cls([_described(r) for r in results], spec)


@dataclass
class BlockCall:
    """One call of a repeated block as the trace makes it, tensors among the ``leaves`` as their types.

    ``like`` is equal for calls that return the same types, None if an argument cannot be compared.
    """

    path: str
    module: nn.Module
    leaves: list[Any]
    in_spec: pytree.TreeSpec
    like: Any
    returned: Returned = field(init=False)
    kind: str = ""

    def result_types(self) -> tuple[TensorType, ...]:
        return tuple(r for r in self.returned.results if isinstance(r, TensorType))

    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the recorded types (zeros) to export the block with."""
        return pytree.tree_unflatten([_tensor(torch.zeros, x) for x in self.leaves], self.in_spec)


@dataclass
class Recorded:
    """The candidates of a model by path, what their calls returned in order, and the model's own result."""

    blocks: dict[str, nn.Module]
    returned: dict[str, list[Returned]]
    result: Any


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Children of module lists and sequences with several entries of one class, outermost only."""
    found: dict[str, nn.Module] = {}

    def visit(module: nn.Module, path: str) -> None:
        children = list(module.named_children())
        classes = [type(child) for _, child in children]
        for name, child in children:
            child_path = f"{path}.{name}" if path else name
            listed = isinstance(module, nn.ModuleList | nn.Sequential) and classes.count(type(child)) > 1
            if listed and any(True for _ in child.children()):
                found[child_path] = child
            else:
                visit(child, child_path)

    visit(model, "")
    return found


def run_unchanged(
    model: nn.Module, buffers: list[torch.Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The model's result, with no trace of the run left in its buffers (nor of them in the result)."""
    kept = [(buffer, buffer._version, buffer.clone()) for buffer in buffers]
    with torch.no_grad(), _same_buffers(model):
        try:
            result = model(*args, **kwargs)
            if any(buffer._version != version for buffer, version, _ in kept):
                result = pytree.tree_map_only(torch.Tensor, torch.clone, result)
            return result
        finally:
            for buffer, version, value in kept:
                if buffer._version != version:
                    buffer.copy_(value)


@contextlib.contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """A buffer that is set to another tensor meanwhile is the one before afterwards."""
    tables = [module._buffers for module in model.modules() if module._buffers]
    kept = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, entries in zip(tables, kept, strict=True):
            table.update(entries)


def record(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], fake: bool = False) -> Recorded:
    """Run the model once and note what its candidates return. Buffers that the run changes are restored.

    A ``fake`` run computes types only: for a model whose weights are not there. Of blocks that are alike and
    called alike one is run, because types are all that it would show of the others.
    """
    found = candidates(model)
    returned: dict[str, list[Returned]] = {path: [] for path in found}

    def hook(path: str) -> Any:
        def note(module: nn.Module, inputs: Any, out: Any) -> None:
            returned[path].append(Returned.of(out))

        return note

    handles = [module.register_forward_hook(hook(path)) for path, module in found.items()]
    try:
        if fake:
            with (
                FakeTensorMode(allow_non_fake_inputs=True) as mode,
                torch.no_grad(),
                _same_buffers(model),
                attributes_kept(model),
                _run_once(found),
            ):
                args, kwargs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, (args, kwargs))
                result = model(*args, **kwargs)
        else:
            result = run_unchanged(model, list(model.buffers()), args, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return Recorded(found, returned, result)


@contextlib.contextmanager
def _run_once(blocks: dict[str, nn.Module]) -> Iterator[None]:
    """While this is open, blocks give for a call like an earlier one results of the same types."""
    known: dict[Any, Returned] = {}
    alike = structures(blocks)

    def short(forward: Any, structure: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            leaves, in_spec = pytree.tree_flatten((args, kwargs))
            key = _input_key(structure, [_described(leaf) for leaf in leaves], in_spec)
            if key is None:
                return forward(*args, **kwargs)
            if key not in known:
                known[key] = Returned.of(forward(*args, **kwargs))
            returned = known[key]
            return pytree.tree_unflatten([_tensor(torch.empty, x) for x in returned.results], returned.spec)

        return call

    with forwards({m: short(m.forward, alike[path]) for path, m in blocks.items()}):
        yield


def _tensor(make: Callable[..., torch.Tensor], described: Any) -> Any:
    """A tensor for a description of one, all else as it is."""
    if isinstance(described, Complex):
        return torch.view_as_complex(_tensor(make, described.real))
    if isinstance(described, TensorType):
        return make(described.shape, dtype=torch_dtype(described.dtype))
    return described


@contextlib.contextmanager
def forwards(forwards: dict[nn.Module, Any]) -> Iterator[None]:
    """Modules with other ``forward`` functions while this is open."""
    own = {module: vars(module)["forward"] for module in forwards if "forward" in vars(module)}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module in forwards:
            del module.forward
        for module, forward in own.items():
            module.forward = forward


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_complex():
        return Complex(TensorType(TORCH_DTYPES[value.dtype.to_real()], (*value.shape, 2)))
    return tensor_type(value) if isinstance(value, torch.Tensor) else value


def _position_counters(found: Mapping[str, nn.Module]) -> set[tuple[type, str, str]]:
    """Integer attributes, by block class, sub-module path and name, that equal the block's position in its
    list for every block: they only number the blocks."""
    counting: dict[tuple[type, str, str], bool] = {}
    for path, block in found.items():
        position = path.rsplit(".", 1)[-1]
        for sub_path, module in block.named_modules():
            for name, value in vars(module).items():
                if type(value) is int:
                    key = (type(block), sub_path, name)
                    counting[key] = counting.get(key, True) and position.isdigit() and value == int(position)
    return {key for key, counts in counting.items() if counts}


def structures(blocks: Mapping[str, nn.Module]) -> dict[str, Any]:
    """What blocks have in common that compute the same with other weights, by their path, whose last part is
    their position."""
    counters = _position_counters(blocks)
    return {path: _structure_key(block, counters) for path, block in blocks.items()}


def _structure_key(block: nn.Module, counters: set[tuple[type, str, str]]) -> Any:
    """Class, sub-modules, tensors' shapes and plain attributes of a block."""
    return type(block), tuple(
        _module_key(type(block), path, m, counters) for path, m in block.named_modules()
    )


def _input_key(structure: Any, leaves: list[Any], in_spec: pytree.TreeSpec) -> Any:
    """See :class:`BlockCall`, ``like``."""
    keys = tuple(map(_leaf_key, leaves))
    return None if None in keys else (structure, str(in_spec), keys)


def _result_key(returned: Returned) -> Any:
    """The types of a call's results, or None if one cannot be compared or is complex, or none is a tensor."""
    results = tuple(map(_leaf_key, returned.results))
    if None in results or not any(isinstance(r, TensorType) for r in results):
        return None
    if any(isinstance(r, Complex) for r in results):
        return None
    return str(returned.spec), results


def _leaf_key(leaf: Any) -> Any:
    if isinstance(leaf, TensorType | Complex):
        return leaf
    if leaf is None or isinstance(leaf, bool | int | float | str):
        return (type(leaf).__name__, leaf)
    return None


def _module_key(block: type, path: str, module: nn.Module, counters: set[tuple[type, str, str]]) -> Any:
    tensors = tuple(
        (name, None if t is None else (tuple(t.shape), t.dtype))
        for table in (module._parameters, module._buffers)
        for name, t in table.items()
    )
    plain = tuple(
        sorted(
            (name, _attribute_key(value))
            for name, value in vars(module).items()
            if not name.startswith("_") and (block, path, name) not in counters
        )
    )
    return (path, type(module), tensors, plain)


def _attribute_key(value: Any) -> str:
    """Plain values by value, everything else (a shared config, say) by identity."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{','.join(map(_attribute_key, value))}]"
    return f"{type(value).__name__}@{id(value)}"


Returns = Callable[[BlockCall], Returned | None]
"""What tells the results of a call; None if it is to be traced as it is."""


@contextlib.contextmanager
def stubbed(blocks: Mapping[str, nn.Module], returns: Returns, hide: bool) -> Iterator[list[BlockCall]]:
    """While this is open, calling one of the ``blocks`` emits one ``forgec::block`` operator instead of its
    body. ``returns`` is asked with the block as it was.

    Gives the list of calls in the order in which the trace makes them; the operator's number is the index. A
    call whose arguments cannot be compared (a cache object, say) is traced as it is. To ``hide`` takes the
    candidates' parameters and buffers away meanwhile: the export would spend most of its time on them. Then
    reading one is an error, and so is a call that would be traced as it is.
    """
    made: list[BlockCall] = []
    kinds: dict[Any, str] = {}
    alike = structures(blocks)
    hidden = {module: _tables(module) for module in blocks.values()} if hide else {}

    def stub(path: str, module: nn.Module, forward: Any) -> Any:
        def call_once(*args: Any, **kwargs: Any) -> Any:
            leaves, in_spec = pytree.tree_flatten((args, kwargs))
            types = [_described(x) for x in leaves]
            call = BlockCall(path, module, types, in_spec, _input_key(alike[path], types, in_spec))
            with forwards({module: forward}), _shown(hidden.get(module, [])):
                returned = returns(call)
            results = None if returned is None else _result_key(returned)
            if returned is None or results is None or call.like is None:
                if hide:
                    raise _HiddenError(f"a call of {path} has to be traced and its weights are hidden")
                return forward(*args, **kwargs)
            call.returned = returned
            call.kind = kinds.setdefault((call.like, results), f"block{len(kinds)}")
            number = len(made)
            made.append(call)
            _result_types[number] = list(call.result_types())
            tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
            values = iter(BLOCK_OP([torch.view_as_real(x) if x.is_complex() else x for x in tensors], number))
            filled = [next(values) if isinstance(r, TensorType) else r for r in returned.results]
            return pytree.tree_unflatten(filled, returned.spec)

        return call_once

    unique = {module: path for path, module in blocks.items()}
    stubs = {module: stub(path, module, module.forward) for module, path in unique.items()}
    try:
        with forwards(stubs), contextlib.ExitStack() as stack:
            for tables in hidden.values():
                stack.enter_context(_emptied(tables))
            yield made
    finally:
        _result_types.clear()


class _HiddenError(Exception):
    """A hidden weight is needed."""


_Tables = list[tuple[dict[str, Any], dict[str, Any]]]
"""Tables of parameters and buffers, and what they hold."""


def _tables(block: nn.Module) -> _Tables:
    own = (vars(module)[kind] for module in block.modules() for kind in ("_parameters", "_buffers"))
    return [(table, dict(table)) for table in own]


@contextlib.contextmanager
def _emptied(tables: _Tables) -> Iterator[None]:
    for table, _ in tables:
        table.clear()
    try:
        yield
    finally:
        for table, entries in tables:
            table.clear()
            table.update(entries)


@contextlib.contextmanager
def _shown(tables: _Tables) -> Iterator[None]:
    """Hidden tables are full while this is open."""
    for table, entries in tables:
        table.update(entries)
    try:
        yield
    finally:
        for table, _ in tables:
            table.clear()


def is_block_call(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is BLOCK_OP
