"""A checkpoint that memory does not hold: compiled tensor by tensor, then run.

Shards of random bf16 weights are written at a preset's dimensions; one process compiles them and one runs the
file. Peaks are of resident memory of the whole process, pages of mapped files included.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from .client import Worker
from .round_robin import Say
from .session import model_label
from .tables import Table, mib

__all__ = ["NAME", "TITLE", "Streaming", "measure", "tables"]

NAME = "streaming"
TITLE = "Compiling more than memory holds"

_SHARD_BYTES = 1 << 30
_RANDOM = 1 << 24
"""Random numbers that are drawn; tensors take them again and again from different places."""


class Streaming:
    """What the workers serve."""

    def write(self, model: str, layers: int | None, folder: str) -> int:
        """Write the shards of a Hugging Face directory; their bytes."""
        import torch
        from safetensors.torch import save_file
        from transformers import AutoConfig, AutoModelForCausalLM

        from forgec import models

        config = models.describe(model).config_dict()
        if layers is not None:
            config["num_hidden_layers"] = layers
        place = Path(folder)
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
        with torch.device("meta"):
            shapes = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(place)).state_dict()
        generator = torch.Generator().manual_seed(0)
        numbers = (0.02 * torch.randn(_RANDOM, generator=generator)).to(torch.bfloat16)
        shard: dict[str, Any] = {}
        files: dict[str, str] = {}
        total = 0

        def flush() -> None:
            name = f"model-{len(set(files.values())):05}.safetensors"
            save_file(shard, place / name)
            files.update(dict.fromkeys(shard, name))
            shard.clear()

        for number, (name, meta) in enumerate(shapes.items()):
            if name == "lm_head.weight" and config.get("tie_word_embeddings"):
                continue
            start = number * 4099 % _RANDOM
            rolled = torch.cat([numbers[start:], numbers[:start]])
            shard[name] = rolled.repeat(-(-meta.numel() // _RANDOM))[: meta.numel()].reshape(meta.shape)
            total += meta.numel() * 2
            if sum(t.nbytes for t in shard.values()) > _SHARD_BYTES:
                flush()
        flush()
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (place / "model.safetensors.index.json").write_text(json.dumps(index))
        return total

    def compile(self, folder: str, weights: str, context: int, chunk: int, path: str) -> dict[str, Any]:
        """Seconds, and bytes resident before and at the peak of load, compile and save."""
        import forgec
        from forgec import models
        from forgec.report import rss

        with rss.measure() as memory:
            start = perf_counter()
            loaded = models.load(folder, stream=True)
            programs = forgec.compile_language_model(
                loaded, context=context, chunks=[chunk], weights=weights, check=False
            )
            compiled = perf_counter()
            programs.save(path)
        return {
            "compile_s": compiled - start,
            "save_s": perf_counter() - compiled,
            "before": memory.before_bytes,
            "peak": memory.peak_bytes,
            "file": Path(path).stat().st_size,
        }

    def run(self, path: str, threads: int, tokens: int) -> dict[str, Any]:
        """Generate from a short prompt: rates, and the peak of resident memory."""
        from forgec import LLM
        from forgec.report import rss

        with rss.measure() as memory, LLM(path) as llm:
            for program in llm.programs.values():
                program.threads = threads
            written = [piece.token for piece in llm.generate([5, 6, 7, 8], max_tokens=tokens, eos=())]
        return {"tokens": len(written), "decode": llm.stats.decode_rate, "peak": memory.peak_bytes}


def measure(
    model: str,
    *,
    weights: str,
    context: int,
    chunk: int,
    tokens: int,
    threads: int,
    layers: int | None,
    folder: Path,
    say: Say,
) -> dict[str, Any]:
    """Write, compile, run; the files are removed."""
    shards, path = folder / "shards", str(folder / "model.forge")
    folder.mkdir(parents=True)
    try:
        with Worker(Streaming, threads) as worker:
            say(f"writing shards to {shards}")
            stored = worker.call("write", model=model, layers=layers, folder=str(shards))
        with Worker(Streaming, threads) as worker:
            say(f"compiling {stored / 1e9:.1f} GB to {weights}")
            made = worker.call(
                "compile", folder=str(shards), weights=weights, context=context, chunk=chunk, path=path
            )
        say(f"compiled: {made}")
        with Worker(Streaming, threads) as worker:
            ran = worker.call("run", path=path, threads=threads, tokens=tokens)
    finally:
        shutil.rmtree(folder)
    label = f"{model_label(model, layers)}, {weights}"
    return {"models": {label: {"shards": stored, "compile": made, "run": ran}}}


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One row per model."""
    rows = [
        (
            label,
            mib(found["shards"]),
            f"{found['compile']['compile_s']:.1f}",
            f"{found['compile']['save_s']:.1f}",
            mib(found["compile"]["peak"]),
            mib(found["compile"]["file"]),
            mib(found["run"]["peak"]),
            f"{found['run']['decode']:.2f}",
        )
        for label, found in data["models"].items()
    ]
    columns = (
        "model, weights",
        ">shards",
        ">compile s",
        ">write s",
        ">peak RSS",
        ">file",
        ">peak RSS of a run",
        ">decode tokens/s",
    )
    return [Table("From shards of bf16 to a file, and a run of it, measured", columns, rows)]
