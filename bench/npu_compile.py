"""Compiling for Intel's NPUs: forgec with repeated blocks compiled once, against plain OpenVINO and NPUW.

The language model is a Llama of random weights, as prefill of a chunk and decode of one token, both after a
past, with rows of the cache as inputs and the new rows as outputs on both sides. The peer's two models are
``openvino.convert_model`` of the same module exported by ``torch.export``, static, in f16, on looked-up
embeddings. They are compiled as they are, and by NPUW with the properties of OpenVINO's pipeline for language
models, which folds them: first block, the others, head. BERT is compiled plain and by forgec. "Other weights"
is the second compile of an architecture, with weights from another seed and the cache of the first one. "One
process" does in turn what two do at the same time, which takes each of them longer where they share a core.

All use the same compiler, one after the other in every round, from an empty cache. "CPU" is the processor
time of the compiler's processes, user and system, which other work on the machine disturbs least; seconds go
by the wall. "From the module" is all that a user waits for: forgec's whole compile, without its check, which
the peers have none of; for the peers ``torch.export`` or tracing, ``openvino.convert_model``, and the
compiler's process from its start to its end, but not what makes their models comparable or writes them to
files. "Compiling" is the last part of it: that process, and forgec's whole last phase, which emits and reads
predictions too.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from time import perf_counter, process_time
from typing import Any

from .npu import conversion, empty_cache, prepared
from .round_robin import Say
from .tables import Table, ratio

__all__ = ["MODELS", "NAME", "TITLE", "measure", "tables"]

NAME = "npu-compile"
TITLE = "Compiling for Intel's NPUs"
MODELS = ("narrow", "bert-base", "llama")
"""Llamas so narrow that only their depth counts, an encoder, and a language model."""

_DIMENSIONS = {
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}
_NPUW = {
    "NPU_USE_NPUW": "YES",
    "NPUW_DEVICES": "NPU",
    "NPUW_FOLD": "YES",
    "NPUW_FUNCALL_FOR_ALL": "YES",
    "NPUW_FUNCALL_ASYNC": "YES",
    "NPUW_DQ": "YES",
    "NPU_COMPILER_DYNAMIC_QUANTIZATION": "YES",
    "NPU_COMPILATION_MODE_PARAMS": "compute-layers-with-higher-precision=Sqrt,Power,ReduceMean,Add_RMSNorm",
}
"""What OpenVINO's ``llm_compiled_model.cpp`` sets for both of its models."""

_FOLDED, _AGAIN = "forgec, folded", "forgec, folded, other weights"
_SEEDS = (0, 1)

_ENCODERS = (12, 24)
"""Depths of BERT-base; the second is not its own."""

_DEEP, _SHALLOW, _NARROW = 48, 12, {"hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 2}
_NARROW["num_key_value_heads"] = 1
"""Depths and, so that little else is compiled, dimensions for what more blocks cost."""

_NPUW_OF = {"prefill": {"NPUW_SLICE_OUT": "YES"}, "decode": {"NPUW_UNFOLD_IREQS": "YES"}}


Way = Callable[[], dict[str, float]]
Convert = Callable[[], tuple[Any, float]]
"""Makes the peer's model of a module, and says how many seconds its own conversion took."""


def measure(
    models: Sequence[str],
    *,
    target: str,
    tokens: int,
    past: int,
    layers: int,
    rounds: int,
    unfolded: bool,
    say: Say,
) -> Mapping[str, Any]:
    """One row per model and way of compiling, and per depth; figures, and ratios within a round, are medians
    over the rounds."""
    ways: dict[tuple[str, str], Way] = {}
    if "bert-base" in models:
        ways |= {key: way for depth in _ENCODERS for key, way in _encoder(target, tokens, depth).items()}
    if "llama" in models:
        ways |= _language_model(target, tokens, past, layers, unfolded)
    taken: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in ways}
    deep: dict[int, list[dict[str, float]]] = {}
    if "narrow" in models:
        deep = {_SHALLOW: [], _DEEP: []}
    _warm_up(tokens, past)
    for number in range(rounds):
        for depth in deep:
            with empty_cache():
                deep[depth].append(found := _deep(target, tokens, past, depth))
            say(f"round {number + 1}, {depth} narrow layers: {found['own'] + found['cpu']:.1f} s of CPU")
        with ExitStack() as cache:
            for (model, way), compile_ in ways.items():
                if way != _AGAIN:
                    cache.close()
                    cache.enter_context(empty_cache())
                found = _timed(compile_)
                taken[model, way].append(found)
                spent = (
                    f"{found['module']:.1f} s, {found['seconds']:.1f} compiling, {found['cpu']:.1f} of CPU"
                )
                say(f"round {number + 1}, {model}, {way}: {spent}")
    rows = []
    for (model, way), each in taken.items():
        row: dict[str, Any] = {"model": model, "way": way, "us": each[0]["us"]}
        own = taken[model, _FOLDED]
        for key in ("module", "seconds", "cpu"):
            row[key] = median(max(0.0, x[key]) for x in each)
            row[f"{key}_ratios"] = [max(0.0, x[key]) / o[key] for x, o in zip(each, own, strict=True)]
        rows.append(row)
    depths = [
        {"layers": depth, **{key: median(x[key] for x in each) for key in ("own", "cpu")}}
        for depth, each in deep.items()
    ]
    return {"rows": rows, "depths": depths}


def _warm_up(tokens: int, past: int) -> None:
    """A conversion of either kind by the peer, which imports what that needs; forgec's first is narrow."""
    from forgec import models as presets

    _step(_llama(1, past + tokens, **_NARROW), 1, past)()
    loaded = presets.load("bert-base", layers=1)
    _conversion(loaded.module, loaded.example_inputs(tokens=tokens)[1], "trace")()


def _timed(compile_: Way) -> dict[str, float]:
    """What a way of compiling says, and the processor time of the processes that it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = compile_()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {**found, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def _deep(target: str, tokens: int, past: int, layers: int) -> dict[str, float]:
    """Processor time of a whole compile of a narrow model: this process's, and that of the compiler's."""
    import forgec

    loaded = _llama(layers, past + tokens, **_NARROW)
    start = process_time()

    def compile_() -> dict[str, float]:
        forgec.compile_language_model(
            loaded, context=past + tokens, chunks=(tokens,), target=target, fold="on", check=False
        )
        return {"own": process_time() - start}

    return _timed(compile_)


def _language_model(
    target: str, tokens: int, past: int, layers: int, unfolded: bool
) -> dict[tuple[str, str], Way]:
    import forgec

    exported = _llama(layers, past + tokens)
    models = {"prefill": _step(exported, tokens, past), "decode": _step(exported, 1, past)}
    name = f"Llama, {layers} layers"

    def own(fold: str, seed: int = _SEEDS[0], **options: Any) -> dict[str, float]:
        loaded = _llama(layers, past + tokens, seed)  # a compile changes the module
        start = perf_counter()
        programs = forgec.compile_language_model(
            loaded, context=past + tokens, chunks=(tokens,), target=target, fold=fold, check=False, **options
        )
        return _total([executable.report for executable in programs.values()], perf_counter() - start)

    ways: dict[tuple[str, str], Way] = {
        (name, _FOLDED): lambda: own("on"),
        (name, _AGAIN): lambda: own("on", _SEEDS[1]),
        (name, "forgec, folded, one process"): lambda: own("on", jobs=1),
    }
    if unfolded:
        ways[name, "forgec, unfolded"] = lambda: own("off")
    npuw = {phase: {**_NPUW, **_NPUW_OF[phase]} for phase in models}
    ways[name, "OpenVINO, NPUW"] = lambda: _vendor(models, target, npuw, layers)
    ways[name, "OpenVINO"] = lambda: _vendor(models, target, {phase: {} for phase in models})
    return ways


def _encoder(target: str, tokens: int, layers: int) -> dict[tuple[str, str], Way]:
    import forgec
    from forgec import models as presets

    loaded = presets.load("bert-base", layers=layers)
    name = f"BERT-base, {layers} layers"
    inputs = loaded.example_inputs(tokens=tokens)[1]
    models = {"encoder": _conversion(loaded.module, inputs, "trace")}

    def own(seed: int) -> dict[str, float]:
        loaded = presets.load("bert-base", layers=layers, seed=seed)
        start = perf_counter()
        found = forgec.compile(loaded.module, (), inputs, target=target, fold="on", check=False)
        return _total([found.report], perf_counter() - start)

    return {
        (name, _FOLDED): lambda: own(_SEEDS[0]),
        (name, _AGAIN): lambda: own(_SEEDS[1]),
        (name, "OpenVINO"): lambda: _vendor(models, target, {"encoder": {}}),
    }


def _llama(layers: int, context: int, seed: int = _SEEDS[0], **dimensions: int) -> Any:
    import json
    import tempfile
    from pathlib import Path

    from forgec.models.presets import describe

    from forgec import models as presets

    config = {**describe("llama-3.2-1b").config_dict(), **_DIMENSIONS, **dimensions}
    config.update(
        num_hidden_layers=layers,
        max_position_embeddings=context,
        head_dim=64,
        rope_scaling=None,
        rope_parameters=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return presets.load(str(path), seed=seed)


def _conversion(module: Any, inputs: Mapping[str, Any], how: str, *, positional: bool = False) -> Convert:
    def convert() -> tuple[Any, float]:
        start = perf_counter()
        model = conversion(module, inputs, how, positional=positional)
        taken = perf_counter() - start
        return prepared(model, inputs), taken

    return convert


def _step(loaded: Any, tokens: int, past: int) -> Convert:
    """The peer's model of ``tokens`` rows after ``past`` ones: the last row's logits and the new rows of the
    cache."""
    import torch
    from transformers import DynamicCache

    model, config = loaded.module, loaded.config
    size = config.hidden_size // config.num_attention_heads

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, mask: Any, position_ids: Any, *rows: Any) -> Any:
            cache = DynamicCache(config=config)
            for layer, keys, values in zip(cache.layers, rows[::2], rows[1::2], strict=True):
                layer.lazy_initialization(keys, values)
                layer.keys, layer.values = keys, values  # an update would append them to nothing
            out = self.model.model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
            logits = self.model.lm_head(out.last_hidden_state[:, -1:])
            new = [rows[:, :, past:] for layer in cache.layers for rows in (layer.keys, layer.values)]
            return (logits, *new)

    total = past + tokens
    inputs = {
        "input_ids": torch.zeros(1, tokens, dtype=torch.int64),
        "mask": torch.ones(1, 1, tokens, total).tril(past).log(),
        "position_ids": torch.arange(past, total)[None],
    }
    shape = (1, config.num_key_value_heads, past, size)
    inputs |= {f"rows{i}": torch.zeros(shape) for i in range(2 * config.num_hidden_layers)}
    return _conversion(Step(), inputs, "export", positional=True)


def _vendor(
    models: Mapping[str, Convert],
    target: str,
    properties: Mapping[str, Mapping[str, str]],
    folded: int | None = None,
) -> dict[str, float]:
    """``folded`` is the number of blocks that NPUW folds; it has an error if it does not."""
    from forgec.backends.base import Settings
    from forgec.backends.openvino import toolchain
    from forgec.backends.openvino.blob import metrics
    from forgec.backends.openvino.compiler import Built, Model, build
    from forgec.backends.vendor.cache import Cache

    tools = toolchain.find()
    if tools is None:
        raise RuntimeError("Intel's compiler is missing: forgec toolchain install intel-npu")
    platform = target.removeprefix("intel-npu")
    module, seconds, us = 0.0, 0.0, 0.0
    for phase, convert in models.items():
        model, converting = convert()
        given = [Model.of(model, phase)]
        with _wall() as taken:
            (built,) = build(given, platform, tools, Settings(), Cache(), properties[phase])
        seconds += sum(taken)
        module += converting + sum(taken)
        if not isinstance(built, Built):
            raise RuntimeError(f"{phase}: {built.reason}")
        starts = [match.start() for match in re.finditer(b"\x7fELF", built.blob)]
        calls = [1] if folded is None else [1, folded - 1, 1]  # NPUW: first block, the others, head
        if len(starts) != len(calls):
            raise RuntimeError(f"{phase}: {len(calls)} parts were expected, there are {len(starts)}")
        for start, stop, times in zip(starts, [*starts[1:], None], calls, strict=True):
            found = metrics(built.blob[start:stop])
            us += times * found.latency_us(platform) if found else 0.0
    return {"module": module, "seconds": seconds, "us": us}


@contextmanager
def _wall() -> Iterator[list[float]]:
    """Seconds by the wall that the compiler's processes take, from their start to their end."""
    from forgec.backends.openvino import compiler

    run_all, taken = compiler.run_all, []

    def timed(*args: Any) -> Any:
        start = perf_counter()
        try:
            return run_all(*args)
        finally:
            taken.append(perf_counter() - start)

    compiler.run_all = timed  # type: ignore[assignment]
    try:
        yield taken
    finally:
        compiler.run_all = run_all


def _total(reports: Sequence[Any], module: float) -> dict[str, float]:
    return {
        "module": module,
        "seconds": sum(p.ms for r in reports for p in r.phases if p.name == "executable") / 1e3,
        "us": sum(p.latency_us for r in reports for p in r.predictions),
    }


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Seconds and processor time, each against forgec folded in the same round."""
    rows = []
    for row in data["rows"]:
        over = {key: row[f"{key}_ratios"] for key in ("module", "seconds", "cpu")}
        range_ = f"{min(over['module']):.1f} - {max(over['module']):.1f}"
        rows.append(
            [
                row["model"],
                row["way"],
                f"{row['module']:.1f}",
                ratio(median(over["module"])),
                "-" if row["way"] == _FOLDED else range_,
                f"{row['seconds']:.1f}",
                f"{row['cpu']:.1f}",
                ratio(median(over["seconds"])),
                ratio(median(over["cpu"])),
                f"{row['us']:,.0f}" if row["us"] else "",
            ]
        )
    columns = [
        "model",
        "way",
        ">from the module s",
        ">/ forgec's",
        ">min - max",
        ">compiling s",
        ">CPU s",
        ">compiling / forgec's",
        ">CPU / forgec's",
        ">us, simulated",
    ]
    found = [Table("Prefill and decode, or the encoder, compiled", columns, rows)] if rows else []
    depths = [(d["layers"], d["own"] + d["cpu"], d["cpu"]) for d in data.get("depths", ())]
    if depths:
        rows = [
            [str(n), f"{whole:.1f}", ratio(whole / depths[0][1]), f"{cpu:.1f}"] for n, whole, cpu in depths
        ]
        columns = [">layers", ">CPU s, everything", ">of the first", ">CPU s, Intel's compiler"]
        found.append(Table("A narrow Llama (128 wide) compiled by forgec, folded", columns, rows))
    return found
