"""Fidelity of every preset on inputs that the compiler has not seen, and the sizes that the paper reports.

Each preset is compiled at two sequence lengths with both attention implementations, and run on inputs of
other seeds than the example's, whose masks end in padding. The reference is eager PyTorch in f32; where a
difference is over a bound and the model is small enough, eager in float64 says which of the two is off.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .client import Worker, WorkerError
from .round_robin import Say
from .session import model_inputs, model_label
from .tables import Table

if TYPE_CHECKING:
    import numpy as np
    from forgec.models import LoadedModel

    from forgec import Executable

__all__ = ["LAYERS", "MODELS", "NAME", "PAPER", "TITLE", "Fidelity", "measure", "tables"]

NAME = "fidelity"
TITLE = "Fidelity, nodes and memory plan"
MODELS = (
    "gpt2",
    "granite-350m",
    "qwen2-0.5b",
    "llama-3.2-1b",
    "llama-3.1-8b",
    "lfm2-2.6b",
    "bert-base",
    "minilm",
    "vit-base",
    "t5-small.encoder",
    "t5-small.decoder",
    "whisper-tiny.encoder",
    "whisper-tiny.decoder",
)
LAYERS = {"llama-3.1-8b": 2, "lfm2-2.6b": 16}
"""Depth of the presets that do not fit whole into 24 GiB as f32, once for PyTorch and once packed."""

TOKENS = (48, 128)
SEEDS = (1, 2)
ATTENTIONS = ("sdpa", "eager")

PAPER = {
    "gpt2": (17.4, 34.5),
    "granite-350m": (18.7, 35.2),
    "qwen2-0.5b": (18.9, 35.9),
    "llama-3.2-1b": (16.7, 30.8),
    "lfm2-2.6b": (21.9, 42.7),
    "llama-3.1-8b": (20.3, 47.8),
}
"""Forge-UGC's reduction of nodes and of buffers in per cent (arXiv 2604.16498), by preset."""

_WIDE_LIMIT = 1 << 31
"""Most bytes of f32 weights for a float64 reference."""


class Fidelity:
    """What the worker serves: one model in memory, compiled at several lengths."""

    def __init__(self) -> None:
        self._loaded: LoadedModel | None = None

    def load(self, model: str, layers: int | None, attn: str, threads: int) -> dict[str, Any]:
        """Load a model; the answer has its weights' bytes and whether it has a token axis."""
        import torch

        from forgec import models

        torch.set_num_threads(threads)
        self._loaded = models.load(model, layers=layers, attn=attn)
        tensors = {t.data_ptr(): t for t in self._loaded.module.parameters()}
        nbytes = sum(t.numel() * t.element_size() for t in tensors.values())
        return {"bytes": nbytes, "tokens": self._loaded.max_tokens is not None or _has_tokens(self._loaded)}

    def measure(self, tokens: int | None, seeds: Sequence[int]) -> dict[str, Any]:
        """Compile at a length, and compare with eager on the inputs of each seed; worst of each metric."""
        import forgec

        assert self._loaded is not None
        gc.collect()
        example = model_inputs(self._loaded, tokens, 0)
        with forgec.compile(self._loaded.module, (), example) as executable:
            compared = [self._compare(executable, tokens, seed) for seed in seeds]
            report = executable.report
            assert report is not None
            return {
                "max_abs": max(c["max_abs"] for c in compared),
                "kl": max(c["kl"] for c in compared),
                "passed": all(c["passed"] for c in compared),
                "wide": [c["wide"] for c in compared if c["wide"] is not None],
                "nodes": [report.graph.nodes_captured, report.graph.nodes_optimised],
                "registers": [report.memory.registers, report.memory.buffers],
                "arena": report.memory.arena_bytes,
                "lower_bound": report.memory.lower_bound_bytes,
                "no_reuse": report.memory.no_reuse_bytes,
                "capture": report.capture.mode,
            }

    def _compare(self, executable: Executable, tokens: int | None, seed: int) -> dict[str, Any]:
        from forgec.report import metrics

        assert self._loaded is not None
        inputs = model_inputs(self._loaded, tokens, seed)
        results = executable.run_flat(executable.signature.flatten((), inputs))
        names = [leaf.name for leaf in executable.signature.results]
        eager = self._eager(executable, inputs, wide=False)
        found = metrics.fidelity(
            dict(zip(names, eager, strict=True)),
            dict(zip(names, results, strict=True)),
            reference="eager PyTorch",
            inputs=f"seed {seed}",
        )
        wide = None
        if not found.passed and executable.report and executable.report.rss.model_bytes <= _WIDE_LIMIT:
            exact = self._eager(executable, inputs, wide=True)
            wide = {
                "ours": max(metrics.max_abs(a, b) for a, b in zip(exact, results, strict=True)),
                "eager": max(metrics.max_abs(a, b) for a, b in zip(exact, eager, strict=True)),
            }
        return {"max_abs": found.max_abs, "kl": found.kl, "passed": found.passed, "wide": wide}

    def _eager(self, executable: Executable, inputs: dict[str, Any], wide: bool) -> list[np.ndarray]:
        from forgec.cli.eager import flat_outputs, run_eager

        assert self._loaded is not None
        return flat_outputs(executable.signature, run_eager(self._loaded.module, (), inputs, wide=wide))


def _has_tokens(loaded: LoadedModel) -> bool:
    from forgec.models.inputs import TOKEN_INPUTS

    return not TOKEN_INPUTS.isdisjoint(loaded.inputs)


def measure(
    models: Sequence[str],
    *,
    threads: int,
    say: Say,
    tokens: Sequence[int] = TOKENS,
    attentions: Sequence[str] = ATTENTIONS,
    seeds: Sequence[int] = SEEDS,
    layers: int | None = None,
) -> dict[str, Any]:
    """One case per model, attention and length, each model in a process of its own."""
    cases: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    for model in models:
        depth = layers or LAYERS.get(model)
        label = model_label(model, depth)
        for attn in attentions:
            try:
                with Worker(Fidelity, threads) as worker:
                    loaded = worker.call("load", model=model, layers=depth, attn=attn, threads=threads)
                    for length in tokens if loaded["tokens"] else (None,):
                        found = worker.call("measure", tokens=length, seeds=list(seeds))
                        case = {"model": model, "label": label, "attn": attn, "tokens": length}
                        cases.append({**case, **found})
                        say(f"{label} {attn} {length}: max abs {found['max_abs']:.1e}, KL {found['kl']:.1e}")
            except WorkerError as error:
                failures[f"{label}, {attn}"] = str(error).splitlines()[0]
                say(f"{label} {attn}: {failures[f'{label}, {attn}']}")
    return {"cases": cases, "failures": failures}


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Differences by case; nodes, buffers and arena of the sdpa cases beside the paper's."""
    from forgec.report.metrics import BOUND_KL, BOUND_MAX_ABS

    cases = data["cases"]
    notes = [f"Bounds: max abs {BOUND_MAX_ABS:.1e}, KL divergence {BOUND_KL:.1e}. Worst over the inputs."]
    notes += [f"Without {label}: {reason}." for label, reason in data["failures"].items()]
    return [
        Table(
            "Difference from eager PyTorch in f32 on other inputs than the example's, measured",
            (
                "model",
                "attention",
                ">tokens",
                ">max abs",
                ">KL",
                "within bounds",
                "max abs from float64: ours / eager's",
            ),
            [
                (
                    case["label"],
                    case["attn"],
                    str(case["tokens"] or "-"),
                    f"{case['max_abs']:.1e}",
                    f"{case['kl']:.1e}",
                    "yes" if case["passed"] else "no",
                    ", ".join(f"{w['ours']:.1e} / {w['eager']:.1e}" for w in case["wide"]),
                )
                for case in cases
            ],
            notes,
        ),
        Table(
            "Nodes, buffers and arena, counted",
            (
                "model",
                "attention",
                ">tokens",
                "capture by",
                ">nodes",
                ">reduction",
                ">paper's",
                ">registers -> buffers",
                ">reduction",
                ">paper's",
                ">arena / lower bound",
                ">arena / no reuse",
            ),
            [_size_row(case) for case in cases],
            ["Nodes are operator nodes of the graph, every layer counted, before and after the passes."],
        ),
    ]


def _size_row(case: Mapping[str, Any]) -> tuple[str, ...]:
    before, after = case["nodes"]
    registers, buffers_used = case["registers"]
    paper = PAPER.get(case["model"])
    nodes, buffers = ("-", "-") if paper is None else (f"{x:.1f} %" for x in paper)
    return (
        case["label"],
        case["attn"],
        str(case["tokens"] or "-"),
        case["capture"],
        f"{before} -> {after}",
        f"{100 * (1 - after / before):.1f} %",
        nodes,
        f"{registers} -> {buffers_used}",
        f"{100 * (1 - buffers_used / registers):.1f} %",
        buffers,
        f"{case['arena'] / max(1, case['lower_bound']):.3f}",
        f"{case['arena'] / max(1, case['no_reuse']):.3f}",
    )
