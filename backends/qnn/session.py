"""Running compiled code: on the device through ONNX Runtime, or in the vendor's emulator on x86.

Values cross the edge in the device's types: floats as f16, integers as i32. The emulator is functional: its
numbers are the device's, its time is not.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from forgec.errors import BackendError, InputError
from forgec.ir.program import Program

from ..base import Memory, Step
from ..vendor.calls import from_bytes, weights_of
from ..vendor.parts import sources_of_copies
from .container import Container, Folded, unpack
from .edge import to_float

__all__ = ["emulated", "folded_steps", "steps", "take"]


def emulated() -> bool:
    """True where the vendor's library is the emulator: everywhere but on its own processors."""
    return platform.machine().lower() not in ("aarch64", "arm64")


def steps(
    code: Container, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], what: str
) -> list[Step]:
    """One step that reads ``inputs`` and writes ``outputs``, the program's own arrays."""
    call = _Call(_open(code, what), code, {}, what)

    def run() -> None:
        for slices, place in zip(call.slices(inputs), outputs, strict=True):
            _put(slices, place)

    return [run]


def folded_steps(code: Folded, segment: Program, memory: Memory, what: str) -> list[Step]:
    """One step that calls parts in turn; weights are converted to the device's types once."""
    parts = [unpack(part) for part in code.parts]
    sessions = [_open(part, what) for part in parts]
    calls = []
    for bound in from_bytes(code.calls, len(parts)):
        ports = parts[bound.part].inputs[len(bound.inputs) :]
        values = weights_of(bound, segment, memory)
        if len(ports) != len(values):
            raise BackendError(f"part {bound.part} of folded code does not take what its call gives", what)
        weights = {port.name: np.empty(port.type.shape, port.type.dtype.numpy) for port in ports}
        for target, value in zip(weights.values(), values, strict=True):
            take(value, target, None)
        calls.append((bound, _Call(sessions[bound.part], parts[bound.part], weights, what)))
    main = segment.main
    inputs = {r.id: memory(r) for r in main.params}
    copies = sources_of_copies(segment)
    outputs = [(copies.get(r.id, r).id, memory(r)) for r in main.results]
    handed_through = inputs.keys() & {number for number, _ in outputs}

    def run() -> None:
        registers = dict(inputs)
        for bound, call in calls:
            results = call([registers[number] for number in bound.inputs])
            registers.update(zip(bound.outputs, results, strict=True))
        registers.update((number, inputs[number].copy()) for number in handed_through)
        for number, place in outputs:
            np.copyto(place, registers[number].reshape(place.shape), casting="unsafe")

    return [run]


class _Call:
    """A session on some weights: called with the values of its other inputs, it gives its outputs."""

    def __init__(self, session: Any, code: Container, weights: Mapping[str, np.ndarray], what: str) -> None:
        self._session, self._code, self._what = session, code, what
        self._names = [port.name for port in code.outputs]
        self._counts = [len(list(ports)) for _, ports in groupby(code.outputs, lambda port: port.register)]
        ports = [port for port in code.inputs if port.name not in weights]
        self._given = [port.name for port in ports]
        self._staged = [np.empty(port.type.shape, port.type.dtype.numpy) for port in ports]
        self._weights = dict(weights)
        self._first: AbstractContextManager[None] = _to_stderr() if emulated() else nullcontext()

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The value of every register that the code gives."""
        return [x[0] if len(x) == 1 else np.concatenate(x, axis=-1) for x in self.slices(inputs)]

    def slices(self, inputs: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """For every register that the code gives: its value, or slices of its last axis as rows."""
        feeds = dict(self._weights)
        for index, (source, target) in enumerate(zip(inputs, self._staged, strict=True)):
            rows = self._code.tables.get(index)
            # What has the device's type already, as a cache has, is read where it lies.
            direct = rows is None and source.dtype == target.dtype and source.shape == target.shape
            if not direct:
                take(source, target, rows)
            feeds[self._given[index]] = source if direct else target
        try:
            with self._first:
                results: Iterator[np.ndarray] = iter(self._session.run(self._names, feeds))
            self._first = nullcontext()
        except Exception as error:
            raise BackendError(f"Qualcomm's runtime failed: {_first(error)}", self._what) from error
        return [list(islice(results, count)) for count in self._counts]


def _put(slices: Sequence[np.ndarray], place: np.ndarray) -> None:
    """Write a register from the slices of its last axis, or from its value."""
    if len(slices) == 1:
        np.copyto(place, slices[0].reshape(place.shape), casting="unsafe")
        return
    rows = place.reshape(-1, place.shape[-1])
    start = 0
    for piece in slices:
        stop = start + piece.shape[-1]
        np.copyto(rows[:, start:stop], piece, casting="unsafe")
        start = stop


def _open(code: Container, what: str) -> Any:
    try:
        import onnxruntime

        from .process import session_options
    except ImportError as error:
        raise BackendError(f"{error}", what, "pip install forgec[qnn]") from error
    with tempfile.TemporaryDirectory(prefix="forgec-qnn-") as name:
        for file, data in code.files.items():
            (Path(name) / file).write_bytes(data)
        models = [file for file in code.files if file.endswith(".onnx")]
        try:
            options = session_options(code.soc if emulated() else None, {}, {})
            options.log_severity_level = 4
            with _to_stderr() if emulated() else nullcontext():
                return onnxruntime.InferenceSession(Path(name) / models[0], options, enable_fallback=0)
        except Exception as error:
            hint = f"compile again: it was made by {code.compiler}"
            raise BackendError(
                f"Qualcomm's runtime does not load the code: {_first(error)}", what, hint
            ) from error


@contextmanager
def _to_stderr() -> Iterator[None]:
    """The emulator greets on the process's standard output, which is where results go; not so in here."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def take(source: np.ndarray, target: np.ndarray, rows: int | None) -> None:
    """Copy a value of the program into an array of the device's type."""
    if rows is not None and source.size:
        wrong = source.min() if source.min() < 0 else source.max()
        if not 0 <= wrong < rows:
            raise InputError(f"id {wrong} is outside a table of {rows} rows")
    shaped = source.reshape(target.shape)
    if target.dtype == np.uint8:  # codes with a sign, from 0 on
        np.bitwise_xor(np.ascontiguousarray(shaped).view(np.uint8), 0x80, out=target)
        return
    with np.errstate(over="ignore"):
        np.copyto(target, shaped, casting="unsafe")
    if target.dtype == np.float16 and not np.isfinite(target).all():
        target[...] = to_float(shaped, target.dtype)
    elif target.dtype == np.int32 and source.dtype != np.int32 and not np.array_equal(target, shaped):
        raise InputError(f"an integer is outside i32: {source.min()} to {source.max()}")
