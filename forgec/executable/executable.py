"""An executable program: in memory after a compile, or loaded from a ``.forge`` file; runs without PyTorch.

An executable is the program, its plan, its signature and its constants, shared by all its clones, and the
memory of its own that a run needs: arenas and states. That memory is made at the first run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np

from forgec import backends
from forgec.backends.base import Backend, Settings
from forgec.backends.prediction import Prediction

from ..errors import ArtifactError, ForgecError, InputError, InternalError
from ..ir.inline import inline
from ..ir.op import get
from ..ir.parser import parse
from ..ir.printer import to_text
from ..ir.program import Program
from ..ir.types import TensorType
from ..ir.verifier import verify
from ..plan.plan import Plan
from ..plan.serialise import from_json, to_json
from ..report.report import Report
from .archive import EXTRA, PLAN, PROGRAM, REPORT, SELFTEST, WEIGHTS, Info, in_file, segment_name
from .constants import Constants, from_file, from_recipes
from .convert import to_array
from .reader import Archive
from .run import BoundProgram
from .segments import segment_programs
from .signature import Signature
from .strictjson import dump_json, parse_json
from .writer import LazyTensor, write_archive

__all__ = ["Executable", "SelfTest", "load", "sampled"]

_STATE = "@"
"""Prefix of a state's initial value among the weights."""


SELFTEST_ELEMENTS = 1 << 18
"""Elements of an output that a self-test keeps at most, unless one row has more."""


@dataclass(frozen=True)
class SelfTest:
    """Inputs and the outputs that they must give, by index of the signature; large outputs
    :func:`sampled`."""

    inputs: Sequence[np.ndarray]
    outputs: Sequence[np.ndarray]


def sampled(output: np.ndarray) -> np.ndarray:
    """An output as a self-test keeps it: whole, or evenly spaced rows of its last axis, the last one
    included.

    The rows of a large output come as [rows kept, last axis].
    """
    step = _row_step(output.shape)
    return output if step == 1 else output.reshape(-1, output.shape[-1])[::-step][::-1]


def _row_step(shape: tuple[int, ...]) -> int:
    """Every how many rows of the last axis a self-test keeps one."""
    if math.prod(shape) <= SELFTEST_ELEMENTS or len(shape) < 2:
        return 1
    return math.ceil(math.prod(shape[:-1]) / max(1, SELFTEST_ELEMENTS // shape[-1]))


def _sampled_type(full: TensorType) -> TensorType:
    """Type of an output as a self-test keeps it."""
    step = _row_step(full.shape)
    if step == 1:
        return full
    return TensorType(full.dtype, (math.ceil(math.prod(full.shape[:-1]) / step), full.shape[-1]))


class Shared:
    """What all clones have in common; nothing in it changes but caches."""

    def __init__(
        self,
        program: Program,
        plan: Plan,
        signature: Signature,
        constants: Constants,
        info: Info,
        initial: Mapping[str, np.ndarray],
        report: Callable[[], Report | None],
        selftest: SelfTest | None,
        extra: Mapping[str, Callable[[], bytes]],
        code: Callable[[int], bytes | None],
        backend: Callable[[str], Backend],
    ) -> None:
        self.program = program
        self.plan = plan
        self.signature = signature
        self.constants = constants
        self.info = info
        self.initial = initial
        self.selftest = selftest
        self.extra = extra
        self.backend = backend
        self._make_report = report
        self._stored_code = code
        self._code: dict[int, bytes] = {}
        self._lock = Lock()
        self._check_types()

    def _check_types(self) -> None:
        """Raises :class:`InternalError` unless program, signature and initial states agree."""
        main, states = self.plan.program.main, self.plan.program.states
        for what, registers, leaves in (
            ("inputs", main.params, self.signature.inputs),
            ("outputs", main.results, self.signature.results),
        ):
            if [r.type for r in registers] != [leaf.type for leaf in leaves]:
                raise InternalError(f"the {what} of the program are not those of its signature")
        for name, array in self.initial.items():
            if states.get(name) != TensorType.of(array):
                raise InternalError(f"the initial value {TensorType.of(array)} fits no state {name!r}")

    @cached_property
    def report(self) -> Report | None:
        return self._make_report()

    @cached_property
    def segments(self) -> list[Program]:
        return segment_programs(self.plan)

    def code(self, index: int) -> bytes:
        """Code of a segment: as stored in the file, else compiled now, once."""
        with self._lock:
            if index not in self._code:
                stored = self._stored_code(index)
                backend = self.backend(self.plan.segments[index].device)
                self._code[index] = (
                    backend.compile(self.segments[index], self.constants.once) if stored is None else stored
                )
            return self._code[index]

    def compile_segments(self, settings: Settings) -> dict[int, Prediction]:
        """Compile all segments now, those of one device together; what their vendors predict, by segment.

        Raises ``BackendError`` naming a segment whose compiler fails.
        """
        by_device: dict[str, list[int]] = {}
        for index, segment in enumerate(self.plan.segments):
            if any(not get(instr.op).view for instr in self.segments[index].main.body):
                by_device.setdefault(segment.device, []).append(index)
        predictions: dict[int, Prediction] = {}
        with self._lock:
            for device, indices in by_device.items():
                backend = self.backend(device)
                programs = [self.segments[index] for index in indices]
                compiled = backend.compile_all(programs, self.constants.once, settings)
                for index, code in zip(indices, compiled, strict=True):
                    self._code[index] = code
                    predicted = backend.prediction(code)
                    if predicted is not None:
                        predictions[index] = predicted
        return predictions


class Executable:
    """A compiled program. Call it like the module that it was compiled from; numpy arrays come out.

    Calls from several threads are right, one after the other; for calls at the same time use :meth:`clone`.
    """

    def __init__(
        self,
        program: Program,
        plan: Plan,
        signature: Signature,
        tensors: Callable[[str], np.ndarray],
        *,
        info: Info | None = None,
        report: Report | None = None,
        initial: Mapping[str, np.ndarray] | None = None,
        selftest: SelfTest | None = None,
        extra: Mapping[str, bytes] | None = None,
        backend: Callable[[str], Backend] = backends.get,
    ) -> None:
        """``program`` is the structured program, ``plan`` that of its flat form, ``tensors`` gives source
        tensors by name. ``initial`` has initial values of states (zeros for the others), ``extra`` further
        files to keep in the artifact, by name. Nothing is computed or allocated before the first run.
        """
        self._shared = Shared(
            program,
            plan,
            signature,
            from_recipes(tensors),
            info or Info(),
            initial or {},
            lambda: report,
            None,
            {name: partial(bytes, data) for name, data in (extra or {}).items()},
            lambda index: None,
            backend,
        )
        self.selftest = selftest
        self._start()

    def _start(self) -> None:
        self._lock = Lock()
        self._bound: BoundProgram | None = None
        self._states: dict[str, np.ndarray] = {}
        self._closed = False

    @classmethod
    def _of(cls, shared: Shared) -> Executable:
        self = cls.__new__(cls)
        self._shared = shared
        self._start()
        return self

    @property
    def shared(self) -> Shared:
        """What this executable has in common with its clones: for tools that run it in another way."""
        return self._shared

    @property
    def program(self) -> Program:
        """The structured program: functions, called once per block."""
        return self._shared.program

    @property
    def plan(self) -> Plan:
        """The plan, with the flat program."""
        return self._shared.plan

    @property
    def signature(self) -> Signature:
        return self._shared.signature

    @property
    def info(self) -> Info:
        return self._shared.info

    @property
    def report(self) -> Report | None:
        """What the compile did, if that was kept."""
        return self._shared.report

    @property
    def selftest(self) -> SelfTest | None:
        """Inputs and expected outputs to keep in the artifact, if there are any; may be set."""
        return self._shared.selftest

    @selftest.setter
    def selftest(self, value: SelfTest | None) -> None:
        leaves = (*self.signature.inputs, *self.signature.results)
        if value is not None:
            arrays = (*value.inputs, *value.outputs)
            if [TensorType.of(array) for array in arrays] != [leaf.type for leaf in leaves]:
                raise InternalError("the self-test does not fit the call signature")
            value = SelfTest(value.inputs, [np.array(sampled(output)) for output in value.outputs])
        self._shared.selftest = value

    @property
    def extra_names(self) -> tuple[str, ...]:
        """Names of the further files that the artifact keeps, for example a tokenizer's."""
        return tuple(self._shared.extra)

    def extra(self, name: str) -> bytes:
        """A further file of the artifact; :class:`ArtifactError` if there is none of that name."""
        if name not in self._shared.extra:
            raise ArtifactError(f"there is no file {name!r} among {list(self.extra_names)}")
        return self._shared.extra[name]()

    def __repr__(self) -> str:
        return f"<forgec executable {self.info.name!r} for {self.info.target}: {self.signature}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on inputs given as the module takes them, and nest the outputs as it does.

        Raises :class:`InputError` naming the input that does not fit.
        """
        return self.signature.unflatten(self._run(self.signature.flatten(args, kwargs)))

    def run_flat(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """Outputs in order of the signature, for inputs in its order; new contiguous arrays."""
        leaves = self.signature.inputs
        if len(inputs) != len(leaves):
            raise InputError(f"{len(inputs)} inputs given, the program takes {len(leaves)}: {self.signature}")
        return self._run([to_array(x, leaf.type, leaf.name) for x, leaf in zip(inputs, leaves, strict=True)])

    def _run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with self._lock:
            if self._closed:
                raise InputError("the executable is closed", hint="load it again")
            if self._bound is None:
                self._bound = self._bind()
            return self._bound.run(inputs)

    def _bind(self) -> BoundProgram:
        shared = self._shared
        self._states = {
            name: np.empty(t.shape, t.dtype.numpy) for name, t in shared.plan.program.states.items()
        }
        self._fill_states()
        return BoundProgram(
            shared.plan, shared.segments, shared.code, shared.constants, self._states, shared.backend
        )

    def _fill_states(self) -> None:
        for name, state in self._states.items():
            state[...] = self._shared.initial.get(name, 0)

    def reset(self) -> None:
        """Give all states their initial values."""
        with self._lock:
            self._fill_states()

    def clone(self) -> Executable:
        """The same program with arenas and states of its own, the states initial; constants are shared."""
        return Executable._of(self._shared)

    def close(self) -> None:
        """Release arenas and states; a file's map goes when no clone and no output needs it."""
        with self._lock:
            self._closed = True
            self._bound = None
            self._states = {}

    def __enter__(self) -> Executable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ``.forge`` file, whole or not at all; each constant is computed, written and released.

        Raises :class:`ArtifactError` if the file cannot be written, ``BackendError`` if a segment's compiler
        fails.
        """
        shared = self._shared
        members: dict[str, bytes | Sequence[LazyTensor]] = {
            PROGRAM: to_text(shared.program).encode(),
            PLAN: dump_json(to_json(shared.plan)),
        }
        for index, segment in enumerate(shared.segments):
            if any(not get(instr.op).view for instr in segment.main.body):
                code = shared.code(index)
                if code:
                    members[segment_name(index)] = code
        if shared.report is not None:
            members[REPORT] = shared.report.to_json().encode()
        members.update((EXTRA + name, read()) for name, read in shared.extra.items())
        if shared.selftest is not None:
            members[SELFTEST] = [
                *_as_lazy("input", shared.selftest.inputs),
                *_as_lazy("output", shared.selftest.outputs),
            ]
        members[WEIGHTS] = self._weights()
        write_archive(path, shared.info, shared.signature, members)

    def _weights(self) -> list[LazyTensor]:
        shared = self._shared
        by_key = {constant.key: constant for constant in shared.plan.program.constants.values()}
        weights = [LazyTensor(key, c.type, partial(shared.constants.once, c)) for key, c in by_key.items()]
        weights += [
            LazyTensor(_STATE + name, TensorType.of(array), partial(np.asarray, array))
            for name, array in shared.initial.items()
        ]
        return weights


def _as_lazy(prefix: str, arrays: Sequence[np.ndarray]) -> Iterable[LazyTensor]:
    return (
        LazyTensor(f"{prefix}.{i}", TensorType.of(a), partial(np.asarray, a)) for i, a in enumerate(arrays)
    )


def load(path: str | os.PathLike[str], verify_weights: bool = True) -> Executable:
    """The executable in a ``.forge`` file. Its weights are mapped, not read; needs no PyTorch.

    ``verify_weights=False`` skips the digests of the weights, nothing else. Raises :class:`ArtifactError` for
    a file that is damaged, foreign, or of a newer version.
    """
    archive = Archive(path)
    archive.check()
    try:
        program = parse(archive.read(PROGRAM).decode())
        verify(program)
        plan = from_json(parse_json(archive.read(PLAN), PLAN), inline(program))
        weights = archive.tensors(WEIGHTS, verify_weights)
        flat = plan.program
        manifest = archive.manifest
        shared = Shared(
            program,
            plan,
            manifest.signature,
            from_file(weights, flat.constants),
            manifest.info,
            {key.removeprefix(_STATE): array for key, array in weights.items() if key.startswith(_STATE)},
            lambda: Report.from_json(archive.read(REPORT)) if REPORT in archive else None,
            _stored_selftest(archive, manifest.signature),
            {
                name.removeprefix(EXTRA): partial(archive.read, name)
                for name in archive
                if name.startswith(EXTRA)
            },
            lambda index: archive.read(segment_name(index)) if segment_name(index) in archive else b"",
            backends.get,
        )
    except ArtifactError as error:
        raise in_file(error, archive.path) from error
    except (ForgecError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the program in the file is not valid: {error}", archive.path) from error
    return Executable._of(shared)


def _stored_selftest(archive: Archive, signature: Signature) -> SelfTest | None:
    if SELFTEST not in archive:
        return None
    tensors = archive.tensors(SELFTEST)
    groups = []
    for prefix, leaves in (("input", signature.inputs), ("output", signature.results)):
        arrays = [tensors.get(f"{prefix}.{i}") for i in range(len(leaves))]
        found = [array for array in arrays if array is not None]
        types = [_sampled_type(leaf.type) if prefix == "output" else leaf.type for leaf in leaves]
        if [TensorType.of(array) for array in found] != types:
            raise ArtifactError("the self-test does not fit the call signature")
        groups.append(found)
    return SelfTest(*groups)
