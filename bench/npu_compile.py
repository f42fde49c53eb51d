"""Compiling for Intel's NPUs: forgec with repeated blocks compiled once, against plain OpenVINO and NPUW.

The language model is a Llama of random weights, as prefill of a chunk and decode of one token, both after a
past, with rows of the cache as inputs and the new rows as outputs on both sides. The peer's two models are
``openvino.convert_model`` of the same module exported by ``torch.export``, static, in f16, on looked-up
embeddings. They are compiled as they are, and by NPUW with the
properties of OpenVINO's pipeline for language models. BERT is compiled plain and by forgec.

All use the same compiler, one after the other in every round, from an empty cache. "CPU" is the processor
time of the compiler's processes, user and system, which other work on the machine disturbs least; seconds are
those of the compiler for the peers, and of the whole last phase for forgec, which emits and reads predictions
too. Conversion by OpenVINO, and capture and passes of forgec, are in neither.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from .npu import converted, empty_cache
from .round_robin import Say
from .tables import Table, ratio

__all__ = ["NAME", "TITLE", "measure", "tables"]

NAME = "npu-compile"
TITLE = "Compiling for Intel's NPUs"

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

_UNFOLDED = 0.7
"""Share of plain OpenVINO's processor time over which NPUW has compiled every block anew."""

_NPUW_OF = {"prefill": {"NPUW_SLICE_OUT": "YES"}, "decode": {"NPUW_UNFOLD_IREQS": "YES"}}


def measure(
    *, target: str, tokens: int, past: int, layers: int, rounds: int, unfolded: bool, say: Say
) -> Mapping[str, Any]:
    """One row per model and way of compiling; figures are medians over the rounds."""
    ways = {**_language_model(target, tokens, past, layers, unfolded), **_encoder(target, tokens)}
    taken: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in ways}
    for number in range(rounds):
        for (model, way), compile_ in ways.items():
            with empty_cache():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                found = compile_()
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            taken[model, way].append({**found, "cpu": spent})
            say(f"round {number + 1}, {model}, {way}: {found['seconds']:.1f} s, {spent:.1f} s of CPU")
    rows = []
    for (model, way), each in taken.items():
        row: dict[str, Any] = {"model": model, "way": way, "us": each[0]["us"]}
        rows.append({**row, **{key: median(x[key] for x in each) for key in ("seconds", "cpu")}})
    return {"rows": rows}


Way = Callable[[], dict[str, float]]


def _language_model(
    target: str, tokens: int, past: int, layers: int, unfolded: bool
) -> dict[tuple[str, str], Way]:
    import forgec

    exported = _llama(layers, past + tokens)
    models = {"prefill": _step(exported, tokens, past), "decode": _step(exported, 1, past)}
    name = f"Llama, {layers} layers"

    def own(fold: str) -> dict[str, float]:
        loaded = _llama(layers, past + tokens)  # a compile changes the module
        programs = forgec.compile_language_model(
            loaded, context=past + tokens, chunks=(tokens,), target=target, fold=fold, check=False
        )
        return _total([executable.report for executable in programs.values()])

    ways: dict[tuple[str, str], Way] = {(name, "forgec, folded"): lambda: own("on")}
    if unfolded:
        ways[name, "forgec, unfolded"] = lambda: own("off")
    ways[name, "OpenVINO"] = lambda: _vendor(models, target, {phase: {} for phase in models})
    npuw = {phase: {**_NPUW, **_NPUW_OF[phase]} for phase in models}
    ways[name, "OpenVINO, NPUW"] = lambda: _vendor(models, target, npuw)
    return ways


def _encoder(target: str, tokens: int) -> dict[tuple[str, str], Way]:
    import forgec
    from forgec import models as presets

    loaded = presets.load("bert-base")
    inputs = loaded.example_inputs(tokens=tokens)[1]
    models = {"encoder": converted(loaded.module, inputs, "trace")}

    def own() -> dict[str, float]:
        found = forgec.compile(loaded.module, (), inputs, target=target, fold="on", check=False)
        return _total([found.report])

    return {
        ("BERT-base", "forgec, folded"): own,
        ("BERT-base", "OpenVINO"): lambda: _vendor(models, target, {"encoder": {}}),
    }


def _llama(layers: int, context: int) -> Any:
    import json
    import tempfile
    from pathlib import Path

    from forgec.models.presets import describe

    from forgec import models as presets

    config = {**describe("llama-3.2-1b").config_dict(), **_DIMENSIONS, "num_hidden_layers": layers}
    config.update(max_position_embeddings=context, head_dim=64, rope_scaling=None, rope_parameters=None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return presets.load(str(path))


def _step(loaded: Any, tokens: int, past: int) -> Any:
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
    rows = torch.zeros(1, config.num_key_value_heads, past, size)
    inputs |= {f"rows{i}": rows for i in range(2 * config.num_hidden_layers)}
    return converted(Step(), inputs, "export", positional=True)


def _vendor(
    models: Mapping[str, Any], target: str, properties: Mapping[str, Mapping[str, str]]
) -> dict[str, float]:
    from forgec.backends.base import Settings
    from forgec.backends.openvino import toolchain
    from forgec.backends.openvino.compiler import Built, Model, build
    from forgec.backends.openvino.prediction import predict
    from forgec.backends.vendor.cache import Cache

    tools = toolchain.find()
    if tools is None:
        raise RuntimeError("Intel's compiler is missing: forgec toolchain install intel-npu")
    platform = target.removeprefix("intel-npu")
    seconds, us = 0.0, 0.0
    for phase, model in models.items():
        given = [Model.of(model, phase)]
        (built,) = build(given, platform, tools, Settings(), Cache(), properties[phase])
        if not isinstance(built, Built):
            raise RuntimeError(f"{phase}: {built.reason}")
        found = predict(built, platform, {})
        seconds += built.seconds
        us += found.latency_us if found else 0.0
    return {"seconds": seconds, "us": us}


def _total(reports: Sequence[Any]) -> dict[str, float]:
    return {
        "seconds": sum(p.ms for r in reports for p in r.phases if p.name == "executable") / 1e3,
        "us": sum(p.latency_us for r in reports for p in r.predictions),
    }


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Seconds and processor time, each against forgec folded."""
    own = {row["model"]: row for row in data["rows"] if row["way"] == "forgec, folded"}
    rows = [
        [
            row["model"],
            row["way"],
            f"{row['seconds']:.1f}",
            f"{row['cpu']:.1f}",
            ratio(row["cpu"] / own[row["model"]]["cpu"]),
            f"{row['us']:,.0f}" if row["us"] else "",
        ]
        for row in data["rows"]
    ]
    columns = ["model", "way", ">seconds", ">CPU seconds", ">CPU / forgec's", ">us, simulated"]
    cpu = {(row["model"], row["way"]): row["cpu"] for row in data["rows"]}
    notes = [
        f"NPUW did not fold the blocks of {model} here: its processor time is no measure of it."
        for (model, way), spent in cpu.items()
        if way == "OpenVINO, NPUW" and spent > _UNFOLDED * cpu[model, "OpenVINO"]
    ]
    return [Table("Prefill and decode, or the encoder, compiled", columns, rows, notes)]
