"""One program per size, called as one: inputs of any size up to the largest are padded into the smallest
program that holds them, and the outputs cut back.

Padding is zeros behind the data, so a mask among the inputs hides it; where there is none, the model itself
must not look at what follows (``forgec.compile_buckets`` checks that it does not).
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArtifactError, InputError, OptionError
from ..ir.types import TensorType
from .convert import to_array
from .executable import Executable
from .programs import Programs, load_programs

__all__ = ["Buckets", "Dim", "DynamicShapes", "bucket_name"]

FILE = "buckets.json"


@dataclass(frozen=True, init=False)
class Dim:
    """A size that varies between calls; ``sizes`` are those that programs are compiled for."""

    name: str
    sizes: tuple[int, ...]

    def __init__(self, name: str, *sizes: int) -> None:
        whole = all(isinstance(size, int) and size > 0 for size in sizes)
        if not name.isidentifier() or not sizes or not whole:
            raise OptionError(
                f"dimension {name!r} has the sizes {list(sizes)}",
                hint='a word and sizes of 1 or more: Dim("tokens", 64, 128)',
            )
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "sizes", tuple(sorted(set(sizes))))


DynamicShapes = Mapping[str, Mapping[int, Dim]]
"""Dimensions by input and axis; one dimension in several places has one size in a call."""

Axes = dict[str, dict[int, str]]
"""Names of dimensions by tensor and axis."""


def bucket_name(sizes: Mapping[str, int]) -> str:
    """Name of the program for these sizes by dimension."""
    return ".".join(f"{name}-{size}" for name, size in sorted(sizes.items()))


class Buckets:
    """Programs for several sizes. Call it like the module that it was compiled from.

    Raises :class:`ArtifactError` for a file of other programs.
    """

    def __init__(self, source: str | os.PathLike[str] | Programs) -> None:
        self.programs = source if isinstance(source, Programs) else load_programs(source)
        main = self.programs.main
        if FILE not in main.extra_names:
            raise ArtifactError(
                f"{main.info.name or 'the file'} has a program for one size", hint="forgec.load loads it"
            )
        self.dims, self._inputs, self._outputs = _parse(main.extra(FILE), main)
        for sizes in itertools.product(*self.dims.values()):
            name = bucket_name(dict(zip(self.dims, sizes, strict=True)))
            if name not in self.programs:
                raise ArtifactError(f"the file lacks the program {name!r}", hint="compile the model again")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on inputs of any size up to the largest; raises :class:`InputError` for one over it."""
        found: dict[str, tuple[int, str]] = {}

        def convert(value: Any, expected: TensorType, name: str) -> np.ndarray:
            shape = list(expected.shape)
            given = np.shape(value)
            for axis, dim in self._inputs.get(name, {}).items():
                if len(given) != len(shape):
                    break
                size, first = found.setdefault(dim, (given[axis], name))
                if size != given[axis]:
                    raise InputError(f"{dim} is {size} in {first!r} and {given[axis]} in {name!r}")
                shape[axis] = size
            return to_array(value, TensorType(expected.dtype, tuple(shape)), name)

        main = self.programs.main
        arrays = main.signature.flatten(args, kwargs, convert)
        sizes = {dim: size for dim, (size, _) in found.items()}
        program = self.programs[bucket_name({dim: self._hold(dim, size) for dim, size in sizes.items()})]
        leaves = program.signature.inputs
        padded = [_padded(array, leaf.type) for array, leaf in zip(arrays, leaves, strict=True)]
        outputs = program.run_flat(padded)
        results = program.signature.results
        cut = [self._cut(array, leaf.name, sizes) for array, leaf in zip(outputs, results, strict=True)]
        return program.signature.unflatten(cut)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one ``.forge`` file; :class:`ArtifactError` if it cannot be written."""
        self.programs.save(path)

    def _hold(self, dim: str, size: int) -> int:
        """The smallest compiled size that holds a given one."""
        sizes = self.dims[dim]
        held = next((n for n in sizes if n >= size), None)
        if held is None or size < 1:
            raise InputError(
                f"{dim} is {size}, and the largest program takes {sizes[-1]}",
                hint="split the input, or compile with a larger size",
            )
        return held

    def _cut(self, array: np.ndarray, name: str, sizes: Mapping[str, int]) -> np.ndarray:
        for axis, dim in self._outputs.get(name, {}).items():
            array = array[(slice(None),) * axis + (slice(0, sizes[dim]),)]
        return np.ascontiguousarray(array)


def to_bytes(dims: Mapping[str, tuple[int, ...]], inputs: Axes, outputs: Axes) -> bytes:
    """What a file says about its sizes."""
    return json.dumps(
        {"dims": {k: list(v) for k, v in dims.items()}, "inputs": inputs, "outputs": outputs}
    ).encode()


def varying_axes(programs: Mapping[tuple[tuple[str, int], ...], Executable]) -> Axes:
    """Axes of the outputs that have a dimension's size in every program, by programs' sizes."""
    axes: Axes = {}
    results = [exe.signature.results for exe in programs.values()]
    for leaves in zip(*results, strict=True):
        for axis in range(leaves[0].type.rank):
            for dim, _ in next(iter(programs)):
                wanted = [dict(sizes)[dim] for sizes in programs]
                if [leaf.type.shape[axis] for leaf in leaves] == wanted:
                    axes.setdefault(leaves[0].name, {}).setdefault(axis, dim)
    return axes


def _padded(array: np.ndarray, wanted: TensorType) -> np.ndarray:
    if array.shape == wanted.shape:
        return array
    padded = np.zeros(wanted.shape, array.dtype)
    padded[tuple(slice(0, n) for n in array.shape)] = array
    return padded


def _parse(data: bytes, main: Executable) -> tuple[dict[str, tuple[int, ...]], Axes, Axes]:
    """Sizes by dimension, and the axes that have them; :class:`ArtifactError` for anything else."""
    try:
        value = json.loads(data)
        dims = {str(name): tuple(int(n) for n in sizes) for name, sizes in value["dims"].items()}
        tables: list[Axes] = []
        for key, leaves in (("inputs", main.signature.inputs), ("outputs", main.signature.results)):
            ranks = {leaf.name: leaf.type.rank for leaf in leaves}
            table = {name: {int(a): str(d) for a, d in axes.items()} for name, axes in value[key].items()}
            if not all(d in dims and 0 <= a < ranks[n] for n, axes in table.items() for a, d in axes.items()):
                raise ValueError(f"{key} name axes that are not there")
            tables.append(table)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{FILE} is malformed: {error}") from error
    if not dims or math.prod(len(sizes) for sizes in dims.values()) > 1024:
        raise ArtifactError(f"{FILE} is malformed: it has {len(dims)} dimensions")
    return dims, tables[0], tables[1]
