"""What a worker serves for most benchmarks: one tool, one model at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from . import tools

if TYPE_CHECKING:
    from forgec.models import LoadedModel
    from torch import nn

__all__ = ["Session", "model_inputs", "model_label"]

EVAL_SEED = 0
"""Seed of the example inputs. Its masks are all ones, so that no tool computes on padding."""


class Session:
    """Methods take and return JSON's types; times are milliseconds of wall clock, measured."""

    def __init__(self) -> None:
        self._tool: tools.Tool | None = None
        self._threads = 1
        self._module: nn.Module | None = None
        self._inputs: dict[str, Any] = {}
        self._compiled: tools.Compiled | None = None
        self._run: Callable[[], Any] | None = None

    def open(self, tool: str, threads: int) -> str | None:
        """Choose the tool and set PyTorch's threads; the answer says why the tool cannot be used, if so."""
        import torch

        torch.set_num_threads(threads)
        self._tool, self._threads = tools.get(tool), threads
        return self._tool.missing()

    def load(
        self,
        model: str,
        tokens: int | None,
        layers: int | None = None,
        attn: str = "sdpa",
        batch: int = 1,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> int:
        """Put a model in memory, in place of the one before; the answer is the bytes of its tensors.

        Of an ONNX file, whose inputs may be given ``shapes`` by name, tools that read such files take the
        file, the others the module that forgec makes of it.
        """
        self.release()
        self._module = None
        gc.collect()
        if model.endswith(".onnx"):
            from forgec.capture.onnx import OnnxModel

            imported = OnnxModel(model, shapes=shapes, tokens=tokens, batch=batch)
            self._module, self._inputs = imported.module, imported.example_inputs(EVAL_SEED)[1]
        else:
            from forgec import models

            loaded = models.load(model, layers=layers, attn=attn)
            self._module, self._inputs = loaded.module, model_inputs(loaded, tokens, EVAL_SEED, batch)
        tensors = {t.data_ptr(): t for t in (*self._module.parameters(), *self._module.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    def compile(self) -> dict[str, Any]:
        """Compile the loaded model.

        ``ms`` until the compile returns, ``first_run_ms`` of the run after it, and the tool's own ``stages``.
        """
        assert self._tool is not None and self._module is not None
        self.release()
        start = perf_counter()
        self._compiled = self._tool.compile(self._module, self._inputs, self._threads)
        ms = (perf_counter() - start) * 1000
        self._run = self._compiled.bind(self._inputs)
        start = perf_counter()
        self._run()
        first_run_ms = (perf_counter() - start) * 1000
        return {"ms": ms, "first_run_ms": first_run_ms, "stages": dict(self._compiled.stages)}

    def compile_memory(self) -> dict[str, Any]:
        """Compile with the resident memory watched: bytes before, at the peak, and how the peak was found."""
        from forgec.report import rss

        self.release()
        with rss.measure() as memory:
            self.compile()
        return {"before": memory.before_bytes, "peak": memory.peak_bytes, "method": memory.method}

    def run(self, count: int) -> list[float]:
        """Latencies of ``count`` runs, each timed alone, after one to warm up."""
        assert self._run is not None
        run = self._run
        run()
        times = []
        for _ in range(count):
            start = perf_counter()
            run()
            times.append((perf_counter() - start) * 1000)
        return times

    def difference(self) -> float | None:
        """Largest absolute difference of the outputs from eager PyTorch's, on the example inputs; None if the
        tool has none."""
        from forgec.report.metrics import max_abs

        assert self._tool is not None and self._module is not None
        assert self._compiled is not None and self._run is not None
        if not self._tool.computes:
            return None
        ours = self._compiled.arrays(self._run())
        eager = tools.get("eager").compile(self._module, self._inputs, self._threads)
        theirs = eager.arrays(eager.bind(self._inputs)())
        return max(max_abs(a, b) for a, b in zip(theirs, ours, strict=True))

    def report(self) -> str | None:
        """The tool's own report of the last compile, if it makes one."""
        assert self._compiled is not None
        return self._compiled.report()

    def release(self) -> None:
        """Let go of the last compile's result."""
        self._run = self._compiled = None
        gc.collect()


def model_inputs(loaded: LoadedModel, tokens: int | None, seed: int, batch: int = 1) -> dict[str, Any]:
    """Inputs by name; ``tokens`` is cut to what the model takes, and left out where it has no token axis."""
    from forgec.models.inputs import TOKEN_INPUTS

    if TOKEN_INPUTS.isdisjoint(loaded.inputs):
        tokens = None
    elif tokens is not None and loaded.max_tokens is not None:
        tokens = min(tokens, loaded.max_tokens)
    return loaded.example_inputs(tokens=tokens, batch=batch, seed=seed)[1]


def model_label(model: str, layers: int | None, batch: int = 1) -> str:
    """How tables call a model; a file by its name."""
    model = Path(model).name if model.endswith(".onnx") else model
    label = model if layers is None else f"{model}, {layers} layers"
    return label if batch == 1 else f"{label}, batch {batch}"
