"""The nodes of an ONNX file as steps over torch tensors, for inputs of given shapes.

One walk over the graph in order. A value is *known* (an array: what is stored, a shape, and what follows from
such by integer arithmetic) or depends on an input, and is then a fake tensor, so that the walk costs no
computing. What a node needs as a constant is taken from the known values; conditions of ``If`` choose their
branch. What remains is a list of :class:`Step`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from onnx import AttributeProto, TensorProto, helper
from torch._subclasses.fake_tensor import FakeTensorMode

from ...errors import CaptureError, ForgecError
from ...ir.stored import CODES, StoredCodes, Unkept
from ...tensors import content_digest
from ..halves import HALVES
from ..source import first_line
from . import ops  # noqa: F401  (registers the converters)
from .codes import Dequantised
from .file import OnnxFile, initializers
from .products import Found, Patterns
from .registry import CONTRIB, Converter, Unsupported, find
from .steps import Constant, Imported, Operand, Static, Step, Value, run_step
from .tensors import inline_array, to_array, to_tensor, torch_type, widened

__all__ = ["import_graph"]

_FOLDED_ELEMENTS = 2**16
"""Size up to which integer arithmetic over known values is evaluated here."""
_FOLDED_FLOATS = 64
"""The same where there are floats among them: weights stay expressions, which the passes know to handle."""
_OF_CODES = ("QLinear", "QGemm", "QAttention", "QEmbed", "ConvInteger")
"""How names of operators begin that compute with codes throughout."""
_CONTROL = ("If", "Constant")


def import_graph(
    file: OnnxFile,
    shapes: Mapping[str, Sequence[int]],
    fixed: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Imported:
    """Import a file for inputs (by the file's names) of given shapes, or ``fixed`` values.

    Raises ``CaptureError`` naming every operator without a converter with its domain, version, number and
    nodes, or the node that cannot be imported and why.
    """
    return _Importer(file).run(shapes, fixed)


def place(node: Any) -> str:
    """``MatMul '/encoder/layer.0/MatMul'``: how reports and errors name a node.

    The exporter of torch writes the module into the metadata of nodes that it only numbers.
    """
    name = node.name or next(iter(node.output), "")
    if "/" not in name:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
        module = scopes.strip("[]").split(", ")[-2:]
        module = [part.strip("'\"") for part in module]
        name = "/".join(part for part in (*module[:1], name) if part)
    return f"{node.op_type} {name!r}"


@dataclass
class _Importer:
    file: OnnxFile
    known: dict[str, np.ndarray] = field(default_factory=dict)
    fakes: dict[str, torch.Tensor] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    names: dict[Any, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    """Values that are inputs, perhaps cast or reshaped, by name."""
    stored: dict[str, StoredCodes | Unkept] = field(default_factory=dict)
    """Codes of known values."""
    weights: dict[tuple[Any, ...], str] = field(default_factory=dict)
    """Values that were made of codes, by what of."""
    precisions: set[str] = field(default_factory=set)
    """What the file computes in beside f32."""
    kept: list[np.ndarray] = field(default_factory=list)
    mode: FakeTensorMode = field(default_factory=FakeTensorMode)

    def run(self, shapes: Mapping[str, Sequence[int]], fixed: Mapping[str, np.ndarray]) -> Imported:
        self._refuse_unknown(self.file.graph.node)
        self.known.update(self.file.constants)
        self.known.update(fixed)
        with self.mode:
            for given in (i for i in self.file.inputs if i.name not in fixed):
                self.fakes[given.name] = widened(torch.empty(tuple(shapes[given.name]), dtype=given.dtype))
                self._met(given.dtype)
                self.origins[given.name] = given.name
        with torch.no_grad():
            self._nodes(self.file.graph.node, {})
        outputs = {name: self._operand(name) for name in self.file.outputs}
        steps = _with_last_uses(self.steps, outputs)
        unique = {name: self.names.get(id(self.known[name])) for name in self.stored}
        codes = {name: self.stored[value] for value, name in unique.items() if name is not None}
        values = {name: self.known.get(name, self.fakes.get(name)) for name in outputs}
        sizes = {name: tuple(value.shape) for name, value in values.items() if value is not None}
        return Imported(steps, outputs, sizes, self.constants, self.rows, codes, frozenset(self.precisions))

    def _refuse_unknown(self, nodes: Any) -> None:
        missing: dict[tuple[str, str], list[str]] = defaultdict(list)
        counts: Counter[tuple[str, str]] = Counter()
        for node in nodes:
            domain = _domain(node)
            if (domain == "" and node.op_type in _CONTROL) or self._find(node) is not None:
                continue
            counts[domain, node.op_type] += 1
            missing[domain, node.op_type].append(node.name or next(iter(node.output), ""))
        if not missing:
            return
        lines = [
            f"{domain or 'ai.onnx'} {op} (opset {self.file.opsets.get(domain, '?')}), "
            f"{counts[domain, op]} times: {', '.join([*map(repr, names[:3]), *['...'] * (len(names) > 3)])}"
            for (domain, op), names in sorted(missing.items())
        ]
        raise CaptureError(
            f"{self.file.path} has {sum(counts.values())} nodes of operators that forgec does not import:\n  "
            + "\n  ".join(lines),
            hint="quantise with quant_format=QDQ, which keeps the operators of the model"
            if all(op.startswith(_OF_CODES) for _, op in missing)
            else "export the model with another opset or without the exporter's own optimisation",
        )

    def _find(self, node: Any) -> Converter | None:
        domain = _domain(node)
        return find(domain, node.op_type, self.file.opsets.get(domain, 1))

    def _nodes(self, nodes: Any, rename: dict[str, str]) -> None:
        """Import nodes in order; ``rename`` maps the names of a subgraph to those of the whole."""
        patterns = Patterns(nodes, lambda name: self.known.get(rename.get(name, name)))
        for node in nodes:
            where = place(node)
            try:
                if _domain(node) == "" and node.op_type == "Constant":
                    self.known[rename.get(node.output[0], node.output[0])] = self._constant(node)
                elif _domain(node) == "" and node.op_type == "If":
                    self._branch(node, rename)
                elif (found := patterns.find(node)) is None:
                    self._node(node, where, rename)
                elif found.unkept is not None:
                    self.stored[rename.get(found.key[0], found.key[0])] = found.unkept
                    self._node(node, where, rename)
                else:
                    self._with_codes(found, rename, rename.get(node.output[0], node.output[0]), where)
            except ForgecError as error:
                if error.where is None:
                    error.where = f"onnx {where} of {self.file.path.name}"
                raise type(error)(error.what, error.where, error.hint) from error
            except Unsupported as error:
                raise CaptureError(
                    f"onnx {where} has a form that forgec does not import: {error}",
                    str(self.file.path),
                    "export the model with another opset or without the exporter's own optimisation",
                ) from error
            except Exception as error:
                raise CaptureError(
                    f"onnx {where} cannot be computed: {type(error).__name__}: {first_line(error)}",
                    str(self.file.path),
                    "are the inputs' shapes such as the model takes? (--shape NAME=1,128)",
                ) from error

    def _constant(self, node: Any) -> np.ndarray:
        (attribute,) = node.attribute
        if attribute.name == "value":
            proto = attribute.t
            if proto.data_location == TensorProto.EXTERNAL:
                return self.file.external.array(proto)
            return inline_array(proto, str(self.file.path))
        kinds = {
            "value_int": np.int64,
            "value_ints": np.int64,
            "value_float": np.float32,
            "value_floats": np.float32,
        }
        if attribute.name not in kinds:
            raise Unsupported(attribute.name)
        return np.asarray(helper.get_attribute_value(attribute), kinds[attribute.name])

    def _branch(self, node: Any, rename: dict[str, str]) -> None:
        name = rename.get(node.input[0], node.input[0])
        if name not in self.known:
            raise Unsupported("a condition that depends on an input's values")
        taken = "then_branch" if bool(self.known[name].reshape(-1)[0]) else "else_branch"
        graph = next(a.g for a in node.attribute if a.name == taken)
        self._refuse_unknown(graph.node)
        prefix = f"{node.name or node.output[0]}/"
        inner = dict(rename)
        for stored, array in initializers(graph, self.file.external).items():
            inner[stored] = prefix + stored
            self.known[prefix + stored] = array
        for step in graph.node:
            inner |= {made: prefix + made for made in step.output if made}
        self._nodes(graph.node, inner)
        for result, made in zip(node.output, graph.output, strict=True):
            source, target = inner.get(made.name, made.name), rename.get(result, result)
            if source in self.known:
                self.known[target] = self.known[source]
            else:
                identity = find("", "Identity", 1)
                assert identity is not None
                self._run(identity, [source], {}, (target,), place(node))

    def _with_codes(self, found: Found, rename: dict[str, str], result: str, where: str) -> None:
        """A product or look-up of codes as one of floats, beside which the codes are known."""
        x, bias, *key = (rename.get(name, name) for name in (found.x, found.bias, *found.key))
        name = self.weights.get((found.is_product, *key))
        if name is None:
            name = f"{key[0]}.floats"
            while name in self.known:
                name += "_"
            self.weights[found.is_product, *key] = name
            arrays = [self.known[part] if part else None for part in key]
            (weight,) = self.file.derived.once(found.is_product, arrays, {}, lambda: (found.weight(),))
            self._keep(name, weight)
        if found.is_product:
            self.precisions.add(CODES)
        converter = find(CONTRIB, "MatMulNBits", 1) if found.is_product else find("", "Gather", 1)
        assert converter is not None
        inputs, attributes = [x, name, bias], dict[str, Any]()
        if not found.is_product:
            inputs, attributes = self._prepared(converter, [name, x], attributes, (result,))
        self._run(converter, inputs, attributes, (result,), where)

    def _keep(self, name: str, value: Dequantised) -> None:
        self.known[name], self.stored[name] = value.array, value.codes

    def _node(self, node: Any, where: str, rename: dict[str, str]) -> None:
        converter = self._find(node)
        if converter is None:
            self._refuse_unknown([node])
            raise AssertionError(where)
        inputs = [rename.get(name, name) for name in node.input]
        results = tuple(rename.get(name, name) for name in node.output)
        attributes = {a.name: self._attribute(a) for a in node.attribute}
        if converter.prepare is not None:
            inputs, attributes = self._prepared(converter, inputs, attributes, results)
        strange = sorted(set(attributes) - converter.attributes)
        if strange:
            raise Unsupported(f"attribute {', '.join(strange)}")
        if _domain(node) == "" and node.op_type == "Cast":
            self._met(torch_type(attributes["to"]))
        if "outputs" in converter.filled:
            while results and not results[-1]:
                results = results[:-1]
            attributes["outputs"] = len(results)
        if "opset" in converter.filled:
            attributes["opset"] = self.file.opsets.get(_domain(node), 1)
        self._run(converter, inputs, attributes, results, where)

    def _prepared(
        self, converter: Converter, inputs: list[str], attributes: dict[str, Any], results: tuple[str, ...]
    ) -> tuple[list[str], dict[str, Any]]:
        prepare = converter.prepare
        assert prepare is not None
        given = [self.known.get(name, name) if name else None for name in inputs]

        def prepared() -> tuple[Any, ...]:
            values, others = prepare(given, dict(attributes))
            return *values, others

        *values, changed = self.file.derived.once(converter.function, given, attributes, prepared)
        by_id = {id(self.known[name]): name for name in inputs if name in self.known}
        names = []
        for number, value in enumerate(values):
            if isinstance(value, Dequantised):
                names.append(f"{inputs[number]}.{number}")
                self._keep(names[-1], value)
            elif isinstance(value, np.ndarray):
                name = by_id.get(id(value)) or f"{inputs[number] or results[0]}.{number}"
                self.known[name] = value
                names.append(name)
            else:
                names.append(value or "")
        return names, dict(changed)

    def _attribute(self, attribute: Any) -> Any:
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            raise Unsupported(f"a graph as attribute {attribute.name}")
        value = helper.get_attribute_value(attribute)
        if attribute.type == AttributeProto.TENSOR:
            return inline_array(value, str(self.file.path))
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return tuple(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value

    def _run(
        self,
        converter: Converter,
        inputs: Sequence[str],
        attributes: dict[str, Any],
        results: tuple[str, ...],
        where: str,
    ) -> None:
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        if self._folds(converter, inputs):
            operands: tuple[Operand, ...] = tuple(
                Static(widened(to_tensor(self.known[name])))
                if converter.kind(i) in ("Tensor", "Operand") and name
                else self._bound(converter, i, name, inputs)
                for i, name in enumerate(inputs)
            )

            def evaluated() -> tuple[Any, ...]:
                made = converter.function(*(operand.value for operand in operands), **attributes)  # type: ignore[union-attr]
                made = made if isinstance(made, tuple | list) else (made,)
                return tuple(to_array(x) if isinstance(x, torch.Tensor) else x for x in made)

            given = [self.known.get(name) for name in inputs]
            made = self.file.derived.once(converter.function, given, attributes, evaluated)
            self.known.update(
                (name, x) for name, x in zip(results, made, strict=False) if name and x is not None
            )
            if converter.codes is not None:
                codes = converter.codes([self.known[name] if name else None for name in inputs], attributes)
                if codes is not None:
                    self.stored[results[0]] = codes
            return
        operands = tuple(self._bound(converter, i, name, inputs) for i, name in enumerate(inputs))
        step = Step(converter, operands, attributes, results, where)
        with self.mode:
            made = run_step(step, lambda name: self.fakes[name], self._fake_constant)
        values = made if isinstance(made, tuple | list) else (made,)
        if all(isinstance(value, np.ndarray) for value in values):
            self.known.update(zip(results, values, strict=False))
            return
        absent = [n for i, n in enumerate(results) if n and (i >= len(values) or values[i] is None)]
        if absent:
            raise Unsupported(f"its output {absent[0]!r}")
        self.fakes.update((name, value) for name, value in zip(results, values, strict=False) if name)
        self.steps.append(step)
        self._trace_indices(where, inputs, results)

    def _folds(self, converter: Converter, inputs: Sequence[str]) -> bool:
        """Whether a node is evaluated now: all that it reads is known, and small or asked to."""
        arrays = [self.known.get(name) for name in inputs if name]
        if not arrays or any(array is None for array in arrays):
            return False
        if converter.fold:
            return True
        small = sum(a.size for a in arrays if a is not None) <= _FOLDED_ELEMENTS
        floats = sum(a.size for a in arrays if a is not None and a.dtype.kind not in "iub")
        if converter.view and not floats:
            return True
        if not small or floats > _FOLDED_FLOATS:
            return False
        sizes = [self.known[name] for i, name in enumerate(inputs) if name and converter.kind(i) == "Shape"]
        return all(math.prod(max(int(n), 1) for n in size.reshape(-1)) <= _FOLDED_ELEMENTS for size in sizes)

    def _bound(self, converter: Converter, index: int, name: str, inputs: Sequence[str]) -> Operand:
        """An input as its converter wants it."""
        kind = converter.kind(index)
        if kind is None:
            raise Unsupported(f"{len(inputs)} inputs")
        if not name:
            return Static(None)
        if kind in ("Tensor", "Operand"):
            if kind == "Operand" and (number := self._number(name, inputs)) is not None:
                return Static(number)
            return self._operand(name)
        if name not in self.known:
            raise Unsupported(f"input {name!r}, which must be constant, depends on an input's values")
        array = self.known[name]
        if kind in ("Ints", "Shape"):
            return Static(tuple(int(n) for n in array.reshape(-1)))
        if kind == "Number":
            return Static(array.reshape(-1)[0].item())
        return Static(array)

    def _number(self, name: str, inputs: Sequence[str]) -> Any:
        """A constant of one element as a number, where that changes neither shape nor type of the result."""
        array = self.known.get(name)
        if array is None or array.size != 1 or array.dtype.kind not in "fiu":
            return None
        others = [
            self.fakes[n]
            for n in inputs
            if n in self.fakes and self.fakes[n].dtype is widened(to_tensor(array)).dtype
        ]
        if not any(other.ndim >= array.ndim for other in others):
            return None
        return array.reshape(-1)[0].item()

    def _operand(self, name: str) -> Operand:
        if name not in self.known:
            if name not in self.fakes:
                raise Unsupported(f"{name!r}, which no node gives")
            return Value(name)
        array = self.known[name]
        # Equal numbers are one constant, so that what layers compute from them is found to be the same.
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size == 1 else id(array)
        unique = self.names.get(key)
        if unique is None:
            tensor = to_tensor(array)
            self._met(tensor.dtype)
            # What is computed here is another constant for other shapes of inputs.
            stored = name in self.file.constants
            unique = self.names[key] = name if stored else f"{name}@{content_digest(tensor)}"
            self.kept.append(array)  # an id stands for an array as long as that lives
            self.constants[unique] = tensor
        return Constant(unique)

    def _met(self, dtype: torch.dtype) -> None:
        """Take note of a type that the file computes in."""
        if dtype in HALVES:
            self.precisions.add(HALVES[dtype])

    def _fake_constant(self, name: str) -> torch.Tensor:
        key = f"\0{name}"
        if key not in self.fakes:
            self.fakes[key] = widened(self.mode.from_tensor(self.constants[name]))
        return self.fakes[key]

    def _trace_indices(self, where: str, inputs: Sequence[str], results: tuple[str, ...]) -> None:
        """Follow inputs through casts and shapes to the tables that they index."""
        op = where.split(" ", 1)[0]
        if (
            op in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
            and inputs[0] in self.origins
        ):
            self.origins[results[0]] = self.origins[inputs[0]]
        tables = {
            "Gather": [(1, 0)],
            "GatherBlockQuantized": [(1, 0)],
            "EmbedLayerNormalization": [(0, 2), (1, 4), (8, 3)],
        }
        for index, table in tables.get(op, ()):
            if index >= len(inputs) or inputs[index] not in self.origins or inputs[table] not in self.known:
                continue
            origin, size = self.origins[inputs[index]], self.known[inputs[table]].shape[0]
            self.rows[origin] = min(size, self.rows.get(origin, size))


def _domain(node: Any) -> str:
    return "" if node.domain == "ai.onnx" else str(node.domain)


def _with_last_uses(steps: list[Step], outputs: Mapping[str, Operand]) -> list[Step]:
    """The steps that outputs depend on, each with the values that it is the last to read."""
    wanted = {o.name for o in outputs.values() if isinstance(o, Value)}
    kept, read = set(wanted), []
    for step in reversed(steps):
        if not kept.intersection(step.results):
            continue
        names = {o.name for o in step.operands if isinstance(o, Value)}
        unread = (names | {r for r in step.results if r}) - kept
        kept |= names
        read.append(
            Step(
                step.converter,
                step.operands,
                step.attributes,
                step.results,
                step.where,
                tuple(sorted(unread)),
            )
        )
    return read[::-1]
