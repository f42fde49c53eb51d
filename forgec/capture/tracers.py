"""Two ways to the graphs of a call: a direct trace, or ``torch.export`` with a run of the model before.

Both trace the model with its blocks replaced by opaque operators (see :mod:`.blocks`), need to know what
these return, and give the graph of one call of a block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..debug import log
from .blocks import BlockCall, Recorded, Returned, candidates
from .export import ExportedGraph, export_module
from .source import first_line
from .trace import TraceError, trace

__all__ = ["DirectTracer", "Exporter", "Tracer"]


class Tracer(ABC):
    """A way to graphs. ``blocks`` are the modules that may be called as blocks, by path."""

    blocks: Mapping[str, nn.Module]

    @property
    @abstractmethod
    def result(self) -> Any:
        """What the model returns, tensors perhaps without values; known after :meth:`whole`."""

    @abstractmethod
    def whole(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ExportedGraph:
        """The graph of the model's call."""

    @abstractmethod
    def returned(self, call: BlockCall) -> Returned | None:
        """What a call of a block returns, asked in the order of the calls while the model is traced; None if
        that is not known and the block has to be traced with the model."""

    @abstractmethod
    def block(self, call: BlockCall) -> ExportedGraph:
        """The graph of a call of a block alone."""


class Exporter(Tracer):
    """``torch.export``, and for blocks a direct trace where that can tell."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.blocks = {path: m for path, m in recorded.blocks.items() if recorded.returned[path]}
        self._next: dict[str, Iterator[Returned]] = {}

    @property
    def result(self) -> Any:
        return self.recorded.result

    def whole(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ExportedGraph:
        self._next = {path: iter(returned) for path, returned in self.recorded.returned.items()}
        return export_module(model, args, kwargs)

    def returned(self, call: BlockCall) -> Returned:
        return next(self._next[call.path])

    def block(self, call: BlockCall) -> ExportedGraph:
        args, kwargs = call.example()
        try:
            return trace(call.module, args, kwargs)[0]
        except TraceError as error:
            log(1, f"block {call.path} is exported: {first_line(error)}")
            return export_module(call.module, args, kwargs)


class DirectTracer(Tracer):
    """No export (see :mod:`.trace`), and no run but one that was ``recorded`` anyway: a block is traced when
    its first call of a kind shows what it is given."""

    def __init__(self, model: nn.Module, recorded: Recorded | None) -> None:
        self.blocks = candidates(model)
        self._recorded = recorded
        self._result: Any = None
        self._known: dict[Any, tuple[ExportedGraph, Returned]] = {}

    @property
    def result(self) -> Any:
        return self._result if self._recorded is None else self._recorded.result

    def whole(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ExportedGraph:
        graph, self._result = trace(model, args, kwargs)
        return graph

    def returned(self, call: BlockCall) -> Returned | None:
        if call.like is None:
            return None
        if call.like not in self._known:
            with torch.utils._python_dispatch._disable_current_modes():
                args, kwargs = call.example()
                graph, result = trace(call.module, args, kwargs)
            self._known[call.like] = graph, Returned.of(result)
        return self._known[call.like][1]

    def block(self, call: BlockCall) -> ExportedGraph:
        return self._known[call.like][0]
