"""An executable program: in memory after a compile, or loaded from a ``.forge`` file; runs without PyTorch.

An executable is the program, its plan, its signature and its constants, shared by all its clones, and the
memory of its own that a run needs: arenas and states. That memory is made at the first run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property, partial
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from forgec import backends
from forgec.backends.base import Backend, Settings, on_failure
from forgec.backends.base import Constants as Values
from forgec.backends.prediction import Prediction

from ..collector import collector_paused
from ..errors import ArtifactError, BackendError, InputError, InternalError
from ..ir.op import get
from ..ir.program import Program, Register
from ..ir.types import TensorType
from ..plan.plan import Plan
from ..processors import require_threads
from ..report.report import Report
from .archive import Info
from .bound import BoundCall
from .constants import Constants, Kept, from_recipes
from .convert import to_array
from .locks import forkable_lock
from .run import BoundProgram
from .samples import SelfTest, sampled
from .segments import segment_programs
from .signature import Signature
from .states import States

__all__ = ["Executable", "Shared", "compile_together"]


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
        self._lock = forkable_lock()
        self._check_types()

    def _check_types(self) -> None:
        """Raises :class:`InternalError` unless program and signature agree."""
        main = self.plan.program.main
        for what, registers, leaves in (
            ("inputs", main.params, self.signature.inputs),
            ("outputs", main.results, self.signature.results),
        ):
            if [r.type for r in registers] != [leaf.type for leaf in leaves]:
                raise InternalError(f"the {what} of the program are not those of its signature")

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
        """:func:`compile_together` of this program alone."""
        return compile_together([self], settings)[0]

    def unpredicted(self) -> list[str]:
        """Why vendors' models say nothing of compiled segments that they were asked about, in sentences."""
        whys: dict[str, list[int]] = {}
        for index, code in sorted(self._code.items()):
            why = self.backend(self.plan.segments[index].device).unpredicted(code)
            if why:
                whys.setdefault(why, []).append(index)
        return [f"segment {', '.join(map(str, indices))}: {why}" for why, indices in whys.items()]

    def _by_device(self) -> dict[str, list[int]]:
        """The segments that compute something, by the device that they are for."""
        found: dict[str, list[int]] = {}
        for index, segment in enumerate(self.plan.segments):
            if any(not get(instr.op).view for instr in self.segments[index].main.body):
                found.setdefault(segment.device, []).append(index)
        return found


def compile_together(programs: Sequence[Shared], settings: Settings) -> list[dict[int, Prediction]]:
    """Compile all segments of several programs now, those of one device together; what their vendors predict,
    by program and segment.

    Raises ``BackendError`` naming the programs and a segment whose compiler fails.
    """
    predictions: list[dict[int, Prediction]] = [{} for _ in programs]
    with ExitStack() as held, _named(programs):
        for program in programs:
            held.enter_context(program._lock)
        places = [program._by_device() for program in programs]
        for device in dict.fromkeys(device for place in places for device in place):
            concerned = [n for n, place in enumerate(places) if device in place]
            backend = programs[concerned[0]].backend(device)
            work: list[tuple[list[Program], Values]] = [
                ([programs[n].segments[index] for index in places[n][device]], programs[n].constants.once)
                for n in concerned
            ]
            told = on_failure.get()
            with nullcontext() if told else backend.together(work, settings):
                for n, (segments, constants) in zip(concerned, work, strict=True):
                    try:
                        codes = backend.compile_all(segments, constants, settings)
                    except BackendError as error:
                        if told is not None:
                            told(backend, segments, constants, error)
                        raise
                    for index, code in zip(places[n][device], codes, strict=True):
                        programs[n]._code[index] = code
                        predicted = backend.prediction(code)
                        if predicted is not None:
                            predictions[n][index] = predicted
    return predictions


@contextmanager
def _named(programs: Sequence[Shared]) -> Iterator[None]:
    """Errors of vendors' compilers say whose part of a program they are about."""
    try:
        yield
    except BackendError as error:
        names = ", ".join(dict.fromkeys(p.info.name for p in programs if p.info.name))
        error.where = ": ".join(filter(None, (names, error.where)))
        raise


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
        kept: Kept | None = None,
        backend: Callable[[str], Backend] = backends.get,
    ) -> None:
        """``program`` is the structured program, ``plan`` that of its flat form, ``tensors`` gives source
        tensors by name. ``initial`` has initial values of states (zeros for the others), ``extra`` further
        files to keep in the artifact, by name. ``kept`` is what other programs of the model keep of its
        constants. Nothing is computed or allocated before the first run.
        """
        self._shared = Shared(
            program,
            plan,
            signature,
            from_recipes(tensors, kept),
            info or Info(),
            initial or {},
            lambda: report,
            None,
            {name: partial(bytes, data) for name, data in (extra or {}).items()},
            lambda index: None,
            backend,
        )
        self.selftest = selftest
        self._start(None, None)

    def _start(self, states: States | None, threads: int | None) -> None:
        shared = self._shared
        self._states = states or States(shared.plan.program.states, shared.initial)
        self._bound: BoundProgram | None = None
        self._closed = False
        self._threads = threads

    @classmethod
    def of(cls, shared: Shared, states: States | None = None, threads: int | None = None) -> Executable:
        """An executable of what others have in common with it, on ``states`` that may be others' too."""
        self = cls.__new__(cls)
        self._shared = shared
        self._start(states, threads)
        return self

    @property
    def threads(self) -> int | None:
        """Threads that a run uses; None leaves it to ``FORGEC_THREADS`` or one for every core.

        May be set at any time; states keep their values.
        """
        return self._threads

    @threads.setter
    def threads(self, value: int | None) -> None:
        if value is not None:
            require_threads(value)
        with self._states.lock:
            if value != self._threads:
                self._threads, self._bound = value, None

    @property
    def shared(self) -> Shared:
        """What this executable has in common with its clones: for tools that run it in another way."""
        return self._shared

    @property
    def states(self) -> States:
        """The states, which other programs of the same file may have too."""
        return self._states

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

    def add_extra(self, files: Mapping[str, bytes]) -> None:
        """Keep further files in the artifact, by name."""
        self._shared.extra = {
            **self._shared.extra,
            **{name: partial(bytes, data) for name, data in files.items()},
        }

    def __repr__(self) -> str:
        return f"<forgec executable {self.info.name!r} for {self.info.target}: {self.signature}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an executable is not pickled or copied: load its file there, or take a clone()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on inputs given as the module takes them, and nest the outputs as it does.

        Raises :class:`InputError` naming the input that does not fit.
        """
        return self.signature.unflatten(self._run(self.signature.flatten(args, kwargs)))

    def run_flat(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """Outputs in order of the signature, for inputs in its order; new contiguous arrays."""
        return self._run(self._arrays(inputs))

    def run_single(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """What :meth:`run_flat` gives with all states initial, at the least time and memory for one run.

        The executable is left as it is: no weight is packed or kept, no state changes.
        """
        return self._bind(self._states.copy(), single=True).run(self._arrays(inputs))

    def bind(self, inputs: Sequence[Any], outputs: Sequence[Any] | None = None) -> BoundCall:
        """A call without copies: each time it reads ``inputs`` and writes ``outputs`` where they lie.

        Both are in order of the signature, numpy arrays, CPU tensors or what else has DLPack, of exactly the
        types of the signature and contiguous; without ``outputs`` they are made. States are this
        executable's. Raises :class:`InputError` naming the one that does not fit.
        """
        main = self.plan.program.main
        return BoundCall(
            self.signature,
            (main.params, main.results),
            self._states,
            lambda given: self._bind(self._states, given=given),
            inputs,
            outputs,
        )

    def _arrays(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        leaves = self.signature.inputs
        if len(inputs) != len(leaves):
            raise InputError(f"{len(inputs)} inputs given, the program takes {len(leaves)}: {self.signature}")
        return [to_array(x, leaf.type, leaf.name) for x, leaf in zip(inputs, leaves, strict=True)]

    def _run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with self._states.lock:
            if self._bound is None:
                self._bound = self._bind(self._states)
            return self._bound.run(inputs)

    @collector_paused()
    def _bind(
        self, states: States, single: bool = False, given: Mapping[Register, np.ndarray] | None = None
    ) -> BoundProgram:
        if self._closed:
            raise InputError("the executable is closed", hint="load it again")
        shared = self._shared
        return BoundProgram(
            shared.plan,
            shared.segments,
            shared.code,
            shared.constants,
            states.arrays(),
            shared.backend,
            self._threads,
            single,
            given,
        )

    def reset(self) -> None:
        """Give all states their initial values."""
        with self._states.lock:
            self._states.reset()

    def clone(self) -> Executable:
        """The same program with arenas and states of its own, the states initial; constants are shared."""
        return Executable.of(self._shared, threads=self._threads)

    def close(self) -> None:
        """Release arenas and states; a file's map goes when no clone and no output needs it."""
        with self._states.lock:
            self._closed = True
            self._bound = None
            self._states.release()

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
        from .stored import save_entries

        save_entries(path, {"": self})
