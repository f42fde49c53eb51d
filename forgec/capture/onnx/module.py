"""An imported ONNX graph as an ``nn.Module``: what is captured, and the eager reference."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.fx import traceback

from ...ir.stored import Stored, StoredCodes, Unkept
from ...tensors import as_numpy
from ..source import IMPORTED
from .codes import bytes_in_file
from .file import OnnxFile, shapes_of
from .importer import import_graph
from .runtime import OF_BYTES, run_onnxruntime
from .steps import Constant, Operand, Value, run_step
from .tensors import to_tensor, widened

__all__ = ["OnnxModule"]


class OnnxModule(nn.Module):
    """Runs the steps of an imported graph on inputs of the shapes that it was imported for; inputs of other
    shapes import it again.

    Takes the file's inputs by position or by name (as Python identifiers), returns a dictionary of its
    outputs. Stored tensors are parameters on the memory of the file, named as there; those that several
    operators read are one parameter. ``stored`` has the codes of those that are floats here. Floats of 16
    bits are stored, taken and returned as such, and computed with in f32. Inputs that are ``fixed`` have
    these values in all runs.
    """

    def __init__(
        self,
        file: OnnxFile,
        shapes: Mapping[str, Sequence[int]],
        fixed: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.file = file
        self.fixed = fixed
        self.shapes = {i.name: tuple(int(n) for n in shapes[i.name]) for i in file.inputs}
        imported = import_graph(file, self.shapes, fixed)
        self.steps, self.outputs, self.rows = imported.steps, imported.outputs, imported.rows
        self.result_shapes = imported.shapes
        self._places: dict[str, tuple[nn.Module, str]] = {}
        used = {o.name for s in self.steps for o in s.operands if isinstance(o, Constant)}
        used |= {o.name for o in self.outputs.values() if isinstance(o, Constant)}
        for name, tensor in imported.constants.items():
            if name in used:
                self._places[name] = _register(self, name, tensor)
        nbytes = {name: bytes_in_file(array) for name, array in self.file.constants.items()}
        found: dict[str, StoredCodes | Unkept] = {
            name: Unkept("products of codes in a form that is not known", nbytes[name])
            for step in self.steps
            if step.where.startswith(OF_BYTES)
            for name in (o.name for o in step.operands if isinstance(o, Constant))
            if nbytes.get(name)
        }
        found |= imported.codes
        paths = {id(parameter): path for path, parameter in self.named_parameters()}
        codes = {paths[id(self._stored(name))]: x for name, x in found.items() if name in used}
        self.stored = Stored(codes, sum(nbytes.values()))
        self.reference_precisions = imported.precisions
        self._halves = file.halves
        parameters = [inspect.Parameter(i.key, inspect.Parameter.POSITIONAL_OR_KEYWORD) for i in file.inputs]
        signature = inspect.Signature(parameters)

        def forward(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
            module = self.for_inputs(args, kwargs)
            given = signature.bind(*args, **kwargs).arguments
            return module.run({i.name: given[i.key] for i in file.inputs})

        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward
        self.eval()

    def for_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> OnnxModule:
        """This module, or the one for the shapes of these inputs, on the same stored tensors."""
        shapes = shapes_of(self.file, args, kwargs)
        return self if shapes == self.shapes else OnnxModule(self.file, shapes)

    def reference_results(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[str, list[Tensor]] | str:
        """The file's outputs by ONNX Runtime, or why there are none."""
        given = inspect.signature(self.forward).bind(*args, **kwargs).arguments
        found = run_onnxruntime(self.file, [as_numpy(given[i.key]) for i in self.file.inputs])
        return found if isinstance(found, str) else ("ONNX Runtime", [to_tensor(x) for x in found])

    def run(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs for inputs by the file's names, without those that are fixed."""
        values = {name: widened(tensor) for name, tensor in given.items()}
        with traceback.preserve_node_meta():
            for step in self.steps:
                with traceback.annotate({IMPORTED: f"onnx {step.where}"}):
                    made = run_step(step, values.__getitem__, self._constant)
                results = made if isinstance(made, tuple | list) else (made,)
                values.update((name, x) for name, x in zip(step.results, results, strict=False) if name)
                for name in step.last:
                    values.pop(name, None)
        return {name: self._output(name, operand, values) for name, operand in self.outputs.items()}

    def _output(self, name: str, operand: Operand, values: Mapping[str, Tensor]) -> Tensor:
        if isinstance(operand, Value):
            result = values[operand.name]
        else:
            assert isinstance(operand, Constant)
            result = self._constant(operand.name).clone()
        return result.to(self._halves[name]) if name in self._halves else result

    def _stored(self, name: str) -> Tensor:
        owner, leaf = self._places[name]
        return getattr(owner, leaf)

    def _constant(self, name: str) -> Tensor:
        return widened(self._stored(name))


def _register(module: nn.Module, name: str, tensor: Tensor) -> tuple[nn.Module, str]:
    """Make a parameter at the path that a name spells, with other names where a module has its own meaning
    for them."""
    *path, leaf = (part or "_" for part in name.split("."))
    owner = module
    for part in path:
        while not isinstance(getattr(owner, part, owner), nn.Module) or part in owner._parameters:
            part += "_"
        if part not in owner._modules:
            owner.add_module(part, nn.Module().eval())
        owner = owner._modules[part]  # type: ignore[assignment]
    while hasattr(owner, leaf):
        leaf += "_"
    owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    return owner, leaf
