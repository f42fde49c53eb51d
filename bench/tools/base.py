"""What a tool has to do: compile a module in memory, and run the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Compiled", "Stages", "Tool", "by_name", "file_of"]


class Stages:
    """Wall-clock milliseconds by stage, in order."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the ``with`` block as the stage of that name."""
        start = perf_counter()
        yield
        self.ms[name] = (perf_counter() - start) * 1000


class Compiled(ABC):
    """What a tool made of a module. ``stages`` has milliseconds by stage of the compile."""

    stages: Mapping[str, float]

    @abstractmethod
    def bind(self, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
        """One call that runs on these inputs, converted beforehand to what the tool takes fastest."""

    @abstractmethod
    def arrays(self, outputs: Any) -> list[np.ndarray]:
        """What such a call returned, as arrays in the order of the module's outputs."""

    def report(self) -> str | None:
        """A ``forgec.report/1`` document, if the tool makes one."""
        return None


class Tool(ABC):
    """A compiler or runtime. One object serves one worker."""

    variables: ClassVar[Mapping[str, str]] = {}
    """What the worker's environment must say for the tool."""

    computes: ClassVar[bool] = True
    """Whether it gives the module's outputs."""

    def missing(self) -> str | None:
        """None if the tool can be used here, else why not."""
        return None

    @abstractmethod
    def compile(self, module: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> Compiled:
        """Compile for the CPU and these inputs, all passed by keyword, from the module in memory."""


def by_name(names: Sequence[Sequence[str]], inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
    """Inputs as arrays in the order of a tool's own input list; ``names`` has each one's possible names.

    Inputs without a known name are taken in order from those left over.
    """
    left = dict(inputs)
    found = [next((name for name in options if name in left), None) for options in names]
    taken = [None if name is None else left.pop(name) for name in found]
    rest = iter(left.values())
    return [(next(rest) if tensor is None else tensor).numpy() for tensor in taken]


def file_of(module: nn.Module) -> tuple[Path, Mapping[str, tuple[int, ...]]] | None:
    """The ONNX file that a module was imported from, and its inputs' shapes by name; None if from none."""
    from forgec.capture.onnx.module import OnnxModule

    return (module.file.path, module.shapes) if isinstance(module, OnnxModule) else None
