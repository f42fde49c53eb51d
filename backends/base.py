"""The backend contract: what a device can run, at what cost, and why not.

The planner asks ``supports`` once per distinct (op, types, attributes) of a program and then finds the
cheapest assignment of instructions to devices. Each maximal run of instructions on one device, a *segment*,
is then compiled ahead of time by its backend, and loaded where the program runs. A backend knows the IR and
nothing about plans.

A segment is a flat program of its own: its parameters are the registers that it reads from elsewhere, its
results those that are read after it, never views; registers keep the numbers of the whole program.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from forgec.errors import BackendError
from forgec.ir.program import Constant, Instr, Operand, Program

from .prediction import Prediction, Repeat

__all__ = [
    "DEFAULTS",
    "Answer",
    "Backend",
    "Constants",
    "Failed",
    "Memory",
    "No",
    "Packing",
    "RejectedError",
    "Settings",
    "Span",
    "Step",
    "Yes",
    "on_failure",
]

Constants = Callable[[Constant], np.ndarray]
"""The value of a constant, read-only, computed for this one use."""

Step = Callable[[], Any]
"""Does a part of a run; what it reads and writes was settled when it was made.

It may have a method ``trace()`` that does the same and gives a :class:`Span` per kernel and thread, and a
method ``moved(old, new)`` that quickly gives a step which does the same with what it has in each of the
arrays ``old`` in that of ``new`` instead; the two never run at the same time."""

Memory = Callable[[Operand], Any]
"""What an operand is while the program is loaded: the numpy array that a register, constant or state has for
good (constants read-only), the Python scalar of a literal, None for an operand left out.

It may have attributes: ``threads`` is how many threads to use, None for as many as the backend thinks right;
``once(constant)`` gives a constant for this one use, without keeping it; ``single`` says that the program
will run one time only, so that nothing is worth computing ahead of it; and ``derived`` is a dictionary for
what backends compute from constants, kept and shared as the constants are; it starts with the constants that
the file holds in a :class:`Packing`."""


@dataclass(frozen=True)
class Span:
    """One thread's part in an instruction, in nanoseconds of ``time.perf_counter_ns``.

    ``waited_ns`` of the time between ``begin_ns`` and ``end_ns`` the thread waited for others.
    """

    instr: Instr
    thread: int
    begin_ns: int
    end_ns: int
    waited_ns: int


@dataclass(frozen=True)
class Yes:
    """The device can run the instruction.

    ``cost_us`` is its latency there in microseconds; None leaves the estimate to the cost model of the
    backend's ``calibration``.
    """

    cost_us: float | None = None


@dataclass(frozen=True)
class No:
    """The device cannot run the instruction.

    ``code`` is a stable word to filter by ("op", "dtype", "rank", "size", ...), ``reason`` one sentence with
    the values, ``fix`` one thing that would change the answer.
    """

    code: str
    reason: str
    fix: str


Answer = Yes | No


@dataclass(frozen=True)
class Packing:
    """A layout in which a device reads a constant; see :mod:`.packing` for the layouts there are.

    ``pack`` makes it from the row-major constant. ``alone`` says that no instruction of the segment reads the
    constant in any other way.
    """

    layout: str
    pack: Callable[[np.ndarray], np.ndarray]
    alone: bool


@dataclass(frozen=True)
class Settings:
    """How a vendor's compiler is to be run.

    ``timeout_s`` seconds and ``memory_bytes`` bytes are what one of its processes may take, None is no bound.
    ``jobs`` processes run at the same time. ``fold`` is whether what repeats is compiled once, with its
    weights as inputs: "on", "off", or "auto" for where the vendor's simulation says that it costs next to
    nothing. ``predict`` is whether a vendor's model is asked for a prediction where that takes a compile of
    its own.
    """

    timeout_s: float | None = 600.0
    memory_bytes: int | None = None
    jobs: int = 2
    fold: str = "auto"
    predict: bool = True


DEFAULTS = Settings()


class RejectedError(BackendError):
    """A vendor's compiler refuses a segment because of one instruction, which the backend knows from now on:
    planning again puts it elsewhere."""


Failed = Callable[["Backend", Sequence[Program], Constants, BackendError], None]

on_failure: ContextVar[Failed | None] = ContextVar("on_failure", default=None)
"""Told, while they are in memory, of segments that a vendor's compiler failed at and of the error."""


class Backend(ABC):
    """One device. ``name`` is how IR text and plans call it: ``cpu``, ``intel-npu4000``, ...

    ``precision`` is the element type that it computes floats in. ``calibration`` names the cost model of its
    instructions, a file of ``forgec/plan/calibration/npu``; None is that of the host. ``kind`` says what a
    run here is: "measured" on the device, "emulated" by a stand-in. ``begins_with_products`` asks that the
    host does what stands before a program's first matrix product, where that is little.
    """

    name: str
    precision: str = "f32"
    calibration: str | None = None
    begins_with_products: bool = False

    @abstractmethod
    def available(self) -> str | None:
        """None if programs can be compiled for the device here, else one sentence saying what is missing."""

    def runnable(self) -> str | None:
        """None if compiled programs run here, on the device or emulated, else one sentence saying what is
        missing."""
        return self.available()

    def under(self, settings: Settings) -> Backend:
        """The backend as it answers under these settings: itself, unless they change what it should run."""
        return self

    @property
    def compiler(self) -> str:
        """The vendor's compiler, by version; empty if there is none. Only asked where it is available."""
        return ""

    @property
    def kind(self) -> Literal["measured", "emulated"]:
        return "measured"

    @abstractmethod
    def supports(self, instr: Instr) -> Answer:
        """Whether the device can run the instruction.

        The answer depends on op, operand kinds, types and attributes only, not on names, numbering or place:
        it is asked once for all instructions that agree in these. View ops are never asked: they move no
        bytes.
        """

    def answers(self, instrs: Sequence[Instr]) -> list[Answer]:
        """:meth:`supports` for several instructions, for a backend that finds out faster together."""
        return [self.supports(instr) for instr in instrs]

    def remarks(self, instrs: Sequence[Instr]) -> list[str]:
        """What a user should know of instructions that are placed on the device, a sentence each: a weight in
        another form than was asked for, or in one that the device is slow at."""
        return []

    def compile(self, segment: Program, constants: Constants, settings: Settings = DEFAULTS) -> bytes:
        """Code of a segment for :meth:`load`, in the device's own form; empty if it needs none.

        Raises ``BackendError`` naming the segment if the vendor's compiler fails, :class:`RejectedError` if
        it refuses an instruction.
        """
        return b""

    def packings(self, segment: Program) -> Mapping[str, Packing]:
        """Constants of a segment, by name, that files are to hold in the device's own layout.

        ``load`` finds them in ``memory.derived`` under :func:`.packing.stored_name`, unless the file has
        another layout or the program was not loaded from one; then it packs them itself.
        """
        return {}

    def compile_all(
        self, segments: Sequence[Program], constants: Constants, settings: Settings = DEFAULTS
    ) -> list[bytes]:
        """:meth:`compile` for several segments, for a backend that compiles them at the same time."""
        return [self.compile(segment, constants, settings) for segment in segments]

    def prepared(self) -> AbstractContextManager[None]:
        """Open while a compile for the device is under way, from its capture on: for a backend whose compiler
        needs something running that takes a while to start."""
        return nullcontext()

    def together(
        self, programs: Sequence[tuple[Sequence[Program], Constants]], settings: Settings = DEFAULTS
    ) -> AbstractContextManager[None]:
        """While this is open every program, its segments with their constants, is given to
        :meth:`compile_all`: for a backend that compiles several in less time than one after the other."""
        return nullcontext()

    def model_files(self, segment: Program, constants: Constants) -> Mapping[str, bytes]:
        """A segment as the files that the vendor's compiler is given, by name; empty if there are none."""
        return {}

    def fold_prices(
        self, segments: Sequence[Program], constants: Constants, settings: Settings = DEFAULTS
    ) -> list[Repeat]:
        """What repeats in the segments, with the prices of compiling it once and as often as it is called:
        for a backend that does not find them out in every compile."""
        return []

    def prediction(self, code: bytes) -> Prediction | None:
        """What the vendor's model says of compiled code; None if there is none."""
        return None

    def unpredicted(self, code: bytes) -> str:
        """Why there is no prediction of compiled code for which one was asked, a sentence; else empty."""
        return ""

    def vendor_files(self, code: bytes) -> Mapping[str, bytes]:
        """The files in compiled code that the vendor's own tools take, by name; empty if there are none."""
        return {}

    @abstractmethod
    def load(self, segment: Program, code: bytes, memory: Memory) -> list[Step]:
        """Steps that run the segment when they are called in turn, any number of times.

        Afterwards ``memory`` of every result holds its value. A result may share bytes with a parameter, or
        with another register of the segment, that is read for the last time before the result's instruction:
        a backend that runs the segment as a whole reads all parameters before it writes a result. Memory of
        registers that are only used inside the segment may be used or not. Raises ``BackendError`` if the
        code does not load.
        """
