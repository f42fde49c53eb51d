"""Workers side by side: one per tool, warmed up, taking turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from . import tools
from .client import Worker, WorkerError
from .session import Session

__all__ = ["Field", "Say", "open_field", "open_tool", "turns", "warm_up"]

Say = Callable[[str], None]
"""Told what happens, one line at a time."""


@dataclass
class Field:
    """The workers that are still in the race, by tool, and why the others are not."""

    workers: dict[str, Worker]
    failures: dict[str, str] = field(default_factory=dict)

    def each(self, act: Callable[[str, Worker], None], order: Sequence[str] | None = None) -> None:
        """Do something with every worker in turn; one that fails leaves, with its reason kept."""
        for name in order or list(self.workers):
            if name not in self.workers:
                continue
            try:
                act(name, self.workers[name])
            except WorkerError as error:
                self.failures[name] = str(error).splitlines()[0]
                self.workers.pop(name).close()


@contextmanager
def open_tool(name: str, threads: int) -> Iterator[Worker]:
    """A worker for one tool; :class:`WorkerError` if the tool cannot be used here."""
    with Worker(Session, threads, tools.get(name).variables) as worker:
        missing = worker.call("open", tool=name, threads=threads)
        if missing:
            raise WorkerError(missing)
        yield worker


@contextmanager
def open_field(names: Sequence[str], threads: int, say: Say) -> Iterator[Field]:
    """One worker per tool; tools that cannot be used are among the failures from the start."""
    entered: dict[str, Worker] = {}
    race = Field(entered)
    try:
        for name in names:
            worker = Worker(Session, threads, tools.get(name).variables)
            entered[name] = worker
            missing = worker.call("open", tool=name, threads=threads)
            if missing:
                race.failures[name] = missing
                entered.pop(name).close()
        for name, reason in race.failures.items():
            say(f"without {name}: {reason}")
        yield race
    finally:
        for worker in entered.values():
            worker.close()


def warm_up(race: Field, model: str) -> None:
    """Let every tool compile and run a tiny model, of the same family if that has one, so that imports and
    first uses are not timed."""
    from forgec.models import presets

    own = f"{model.removesuffix('-tiny')}-tiny"
    tiny = own if own in presets.names() else "bert-base-tiny"

    def act(name: str, worker: Worker) -> None:
        worker.call("load", model=tiny, tokens=16)
        worker.call("compile")

    race.each(act)


def turns(names: Sequence[str], rounds: int) -> Iterator[tuple[str, ...]]:
    """The order of each round, rotated by one from round to round, to let each tool be first in turn."""
    for number in range(rounds):
        shift = number % len(names) if names else 0
        yield (*names[shift:], *names[:shift])
