"""Programs between their plan and their code, so that the segments of several can be compiled together."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import NoReturn

from .backends.base import RejectedError, Settings
from .backends.prediction import Prediction
from .collector import collector_paused
from .executable import Executable
from .executable.executable import Shared, compile_together
from .report import compose, rss

__all__ = ["Planned", "Steps", "finished_together"]

Steps = Generator[Shared, tuple[dict[int, Prediction], float], tuple[Executable, int]]
"""The phases of a compile. It gives programs whose segments are to be compiled and wants to know what their
vendors predict, by segment, and how many milliseconds that took; ``RejectedError`` may be thrown into it, and
then it gives another one. In the end it returns the executable and the bytes of the model."""


class Planned:
    """A program whose segments are not compiled yet. ``shared`` is what is to be compiled."""

    def __init__(self, steps: Steps, settings: Settings) -> None:
        self._steps, self._settings = steps, settings
        with collector_paused(), rss.measure() as self._memory:
            self.shared = next(steps)

    def finished(self, compiled: tuple[dict[int, Prediction], float] | None = None) -> Executable:
        """The executable; ``compiled`` is what its segments' vendors predict and how many milliseconds they
        took, None if they are to be compiled now."""
        with collector_paused(), rss.measure() as memory:
            try:
                self._send(compiled)
            except StopIteration as end:
                executable, model_bytes = end.value
        memory.before_bytes = self._memory.before_bytes
        memory.peak_bytes = max(memory.peak_bytes, self._memory.peak_bytes)
        assert executable.report is not None
        executable.report.rss = compose.rss_report(memory, model_bytes)
        return executable

    def _send(self, compiled: tuple[dict[int, Prediction], float] | None) -> NoReturn:
        """Go through the steps to their end, which is a ``StopIteration``."""
        if compiled is not None:
            self.shared = self._steps.send(compiled)
        while True:
            start = time.perf_counter()
            try:
                predicted = self.shared.compile_segments(self._settings)
            except RejectedError as refusal:
                self.shared = self._steps.throw(refusal)
            else:
                self.shared = self._steps.send((predicted, (time.perf_counter() - start) * 1e3))


def finished_together(programs: Sequence[Planned]) -> list[Executable]:
    """The executables of several programs, whose segments are compiled at the same time."""
    start = time.perf_counter()
    try:
        with collector_paused():
            predicted = compile_together([p.shared for p in programs], programs[0]._settings)
    except RejectedError:
        return [program.finished() for program in programs]  # each plans again what it has to
    ms = (time.perf_counter() - start) * 1e3 / len(programs)
    return [program.finished((own, ms)) for program, own in zip(programs, predicted, strict=True)]
