"""The call signature: names and nesting of inputs and outputs, without any framework.

A *spec* describes one value as a JSON-able tree::

    {"kind": "tensor", "index": 0, "name": "input_ids", "type": "i64[1,16]"}
    {"kind": "tuple" | "list", "items": [spec, ...]}
    {"kind": "dict", "items": {key: spec, ...}}
    {"kind": "none"}
    {"kind": "literal", "value": ...}        a bool, int, float or string fixed when the program was captured

``index`` numbers the tensors in the program's order. Flattening walks the input specs and the given values
side by side, so its cost is linear in the number of leaves; the arrays are not copied unless an integer or
float width has to change (see ``convert``).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ArtifactError, InputError
from ..ir.types import DType, TensorType
from .convert import to_array

__all__ = ["Signature", "Spec", "TensorLeaf", "tensor_leaves"]

Spec = dict[str, Any]
"""One node of the tree in the module's docstring."""

_TYPE = re.compile(r"([a-z]+[0-9]*)\[((?:[0-9]{1,15})(?:,[0-9]{1,15})*)?\]")
_MAX_DEPTH = 64


@dataclass(frozen=True)
class TensorLeaf:
    """A tensor of a spec."""

    index: int
    name: str
    type: TensorType


@dataclass(frozen=True)
class Signature:
    """How a program is called and what it returns.

    ``args`` is a tuple spec of the positional inputs as captured, ``kwargs`` a dict spec of the keyword
    inputs, ``outputs`` any spec. ``parameters`` names the positional parameters of the module's ``forward``
    in order: the first ones name ``args``, and by them every input can be given by position or by keyword, as
    the module itself allows.

    Raises :class:`ArtifactError` if a spec is malformed, input indices are not 0, 1, ... each once, or output
    indices leave a gap.
    """

    args: Spec
    kwargs: Spec
    outputs: Spec
    parameters: tuple[str, ...] = ()
    inputs: tuple[TensorLeaf, ...] = field(init=False, repr=False, compare=False)
    """The input tensors by index."""
    results: tuple[TensorLeaf, ...] = field(init=False, repr=False, compare=False)
    """The output tensors by index."""
    _slots: dict[str, Spec] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for spec, kind in ((self.args, "tuple"), (self.kwargs, "dict")):
            if not isinstance(spec, dict) or spec.get("kind") != kind:
                raise _malformed(f"its inputs must be a {kind} spec")
        found = [*tensor_leaves(self.args), *tensor_leaves(self.kwargs)]
        outputs = {leaf.index: leaf for leaf in tensor_leaves(self.outputs)}
        if sorted(leaf.index for leaf in found) != list(range(len(found))):
            raise _malformed("its input indices are not 0, 1, ... each once")
        if sorted(outputs) != list(range(len(outputs))):
            raise _malformed("its output indices leave a gap")
        positional = {self._slot_name(i): spec for i, spec in enumerate(self.args["items"])}
        if len(positional) != len(self.args["items"]) or positional.keys() & self.kwargs["items"].keys():
            raise _malformed("two inputs have the same name")
        set_field = object.__setattr__
        set_field(self, "inputs", tuple(sorted(found, key=lambda leaf: leaf.index)))
        set_field(self, "results", tuple(outputs[i] for i in range(len(outputs))))
        set_field(self, "_slots", {**positional, **self.kwargs["items"]})

    def flatten(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        convert: Callable[[Any, TensorType, str], np.ndarray] = to_array,
    ) -> list[np.ndarray]:
        """The input arrays of a call, by index, in the program's types.

        Takes numpy arrays, PyTorch tensors, anything with ``__dlpack__`` or ``__array__``, and Python scalars
        for rank 0. ``convert(value, type, name)`` makes an array of each tensor. Raises :class:`InputError`
        naming the input for a wrong structure, name, shape or type.
        """
        given = self._by_name(args, kwargs or {})
        arrays: dict[int, np.ndarray] = {}
        for name, spec in self._slots.items():
            if name in given:
                _collect(spec, given[name], name, self.inputs, arrays, convert)
            elif any(tensor_leaves(spec)):
                raise InputError(
                    f"input {name!r} is missing: {_describe(spec)}", hint=f"the inputs are {self}"
                )
        return [arrays[i] for i in range(len(self.inputs))]

    def unflatten(self, outputs: Sequence[np.ndarray]) -> Any:
        """Nested tuples, lists and dicts of the outputs, as the module returned them."""
        return _rebuild(self.outputs, outputs)

    def to_json(self) -> dict[str, Any]:
        """The signature in JSON's types."""
        return {
            "args": _encode(self.args),
            "kwargs": _encode(self.kwargs),
            "outputs": _encode(self.outputs),
            "parameters": list(self.parameters),
        }

    @classmethod
    def from_json(cls, value: Any) -> Signature:
        """The signature of :meth:`to_json`; :class:`ArtifactError` for anything else."""
        if not isinstance(value, dict) or set(value) != {"args", "kwargs", "outputs", "parameters"}:
            raise _malformed("it must have args, kwargs, outputs and parameters")
        parameters = value["parameters"]
        if not isinstance(parameters, list) or not all(isinstance(name, str) for name in parameters):
            raise _malformed("parameters must be names")
        args, kwargs, outputs = (_decode(value[key]) for key in ("args", "kwargs", "outputs"))
        return cls(args, kwargs, outputs, tuple(parameters))

    def __str__(self) -> str:
        return ", ".join(f"{leaf.name}: {leaf.type}" for leaf in self.inputs)

    def _slot_name(self, position: int) -> str:
        return self.parameters[position] if position < len(self.parameters) else f"arg{position}"

    def _by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Given values by input name; None and captured constants may be given for parameters left out."""
        captured = len(self.args["items"])
        if len(args) > max(captured, len(self.parameters)):
            raise InputError(f"{len(args)} positional inputs given", hint=f"the inputs are {self}")
        given: dict[str, Any] = {self._slot_name(i): value for i, value in enumerate(args)}
        for name, value in kwargs.items():
            if name in given:
                raise InputError(f"input {name!r} is given twice, by position and by keyword")
            given[name] = value
        for name in [name for name in given if name not in self._slots]:
            if name in self.parameters and given[name] is None:
                del given[name]
            elif name in self.parameters:
                raise InputError(
                    f"{name!r} was not given when the program was compiled, so it cannot be given now",
                    hint=f"compile again with {name!r} among the example inputs; the inputs are {self}",
                )
            else:
                near = difflib.get_close_matches(name, self._slots, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"the inputs are {self}"
                raise InputError(f"there is no input {name!r}", hint=hint)
        return given


def tensor_leaves(spec: Spec) -> Iterator[TensorLeaf]:
    """The tensors of a spec in the tree's order; :class:`ArtifactError` if it is malformed."""
    return _leaves(spec, 0)


def _leaves(spec: Any, depth: int) -> Iterator[TensorLeaf]:
    if depth > _MAX_DEPTH:
        raise _malformed(f"it is nested deeper than {_MAX_DEPTH}")
    if not isinstance(spec, dict):
        raise _malformed(f"a spec must be an object, not {spec!r:.60}")
    kind, items = spec.get("kind"), spec.get("items")
    if kind == "tensor":
        index, name = spec.get("index"), spec.get("name")
        if type(index) is not int or not isinstance(name, str):
            raise _malformed("a tensor spec needs an index and a name")
        yield TensorLeaf(index, name, _parse_type(spec.get("type")))
    elif kind in ("tuple", "list") and isinstance(items, list):
        for item in items:
            yield from _leaves(item, depth + 1)
    elif kind == "dict" and isinstance(items, dict) and all(isinstance(key, str) for key in items):
        for item in items.values():
            yield from _leaves(item, depth + 1)
    elif kind == "literal":
        if not isinstance(spec.get("value"), bool | int | float | str):
            raise _malformed(f"a literal cannot be {spec.get('value')!r:.60}")
    elif kind != "none":
        raise _malformed(f"a spec of kind {kind!r:.60} is not known")


def _parse_type(text: Any) -> TensorType:
    match = _TYPE.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[1] not in DType._value2member_map_:
        raise _malformed(f"{text!r:.60} is no tensor type")
    return TensorType(DType(match[1]), tuple(int(n) for n in match[2].split(",")) if match[2] else ())


def _malformed(why: str) -> ArtifactError:
    return ArtifactError(f"the call signature is malformed: {why}")


def _collect(
    spec: Spec,
    value: Any,
    name: str,
    inputs: tuple[TensorLeaf, ...],
    arrays: dict[int, np.ndarray],
    convert: Callable[[Any, TensorType, str], np.ndarray],
) -> None:
    """Put the arrays of a value into ``arrays`` by index, checking it against its spec."""
    kind = spec["kind"]
    if kind == "tensor":
        leaf = inputs[spec["index"]]
        arrays[leaf.index] = convert(value, leaf.type, leaf.name or name)
    elif kind in ("tuple", "list"):
        items = spec["items"]
        if not isinstance(value, tuple | list) or len(value) != len(items):
            raise _wrong_structure(name, spec, value)
        for i, (item, part) in enumerate(zip(items, value, strict=True)):
            _collect(item, part, f"{name}.{i}", inputs, arrays, convert)
    elif kind == "dict":
        items = spec["items"]
        if not isinstance(value, Mapping) or {str(key) for key in value} != set(items):
            raise _wrong_structure(name, spec, value)
        for key, part in value.items():
            _collect(items[str(key)], part, f"{name}.{key}", inputs, arrays, convert)
    elif kind == "none":
        if value is not None:
            raise InputError(
                f"input {name!r} was None when the program was compiled, and now is {_describe_value(value)}",
                hint=f"leave it out, or compile again with {name!r} among the example inputs",
            )
    elif not _same_literal(spec["value"], value):
        raise InputError(
            f"input {name!r} was fixed to {spec['value']!r} when the program was compiled, and now is "
            f"{_describe_value(value)}",
            hint="leave it out, or compile again with the other value",
        )


def _same_literal(fixed: Any, value: Any) -> bool:
    both_nan = isinstance(fixed, float) and isinstance(value, float) and fixed != fixed and value != value
    return both_nan or (isinstance(value, bool | int | float | str) and bool(fixed == value))


def _wrong_structure(name: str, spec: Spec, value: Any) -> InputError:
    return InputError(
        f"input {name!r} must be {_describe(spec)}, not {_describe_value(value)}",
        hint="give inputs nested as they were when the program was compiled",
    )


def _describe(spec: Spec) -> str:
    kind = spec["kind"]
    if kind == "tensor":
        return f"a tensor {spec['type']}"
    if kind == "literal":
        return repr(spec["value"])
    if kind == "none":
        return "None"
    if kind == "dict":
        return f"a dict of {', '.join(map(repr, spec['items'])) or 'nothing'}"
    return f"a {kind} of {len(spec['items'])}"


def _describe_value(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(repr(key) for key in value) or 'nothing'}"
    return repr(value) if isinstance(value, bool | int | float | str | None) else f"a {type(value).__name__}"


def _rebuild(spec: Spec, outputs: Sequence[np.ndarray]) -> Any:
    kind = spec["kind"]
    if kind == "tensor":
        return outputs[spec["index"]]
    if kind in ("tuple", "list"):
        items = [_rebuild(item, outputs) for item in spec["items"]]
        return tuple(items) if kind == "tuple" else items
    if kind == "dict":
        return {key: _rebuild(item, outputs) for key, item in spec["items"].items()}
    return spec.get("value")


def _encode(spec: Spec) -> Spec:
    """``spec`` for JSON, which has no infinite numbers and no nan."""
    items, value = spec.get("items"), spec.get("value")
    if isinstance(items, list):
        return {**spec, "items": [_encode(item) for item in items]}
    if isinstance(items, dict):
        return {**spec, "items": {key: _encode(item) for key, item in items.items()}}
    if isinstance(value, float) and not math.isfinite(value):
        return {**spec, "value": {"float": repr(value)}}
    return spec


def _decode(spec: Any, depth: int = 0) -> Any:
    if not isinstance(spec, dict) or depth > _MAX_DEPTH:
        return spec
    items, value = spec.get("items"), spec.get("value")
    if isinstance(items, list):
        return {**spec, "items": [_decode(item, depth + 1) for item in items]}
    if isinstance(items, dict):
        return {**spec, "items": {key: _decode(item, depth + 1) for key, item in items.items()}}
    if isinstance(value, dict) and value.get("float") in ("inf", "-inf", "nan"):
        return {**spec, "value": float(value["float"])}
    return spec
