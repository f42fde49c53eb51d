"""Language models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import generate, generate_onnx, generate_weights, perplexity, program_time, streaming, train
from .command import Job, Layers, Models, Repeat, Threads, app, benchmark, say


@benchmark("generate")
def run_generate(
    models: Models = None,
    weights: Annotated[list[str] | None, typer.Option(help="int8, int4 or int4:32; repeatable.")] = None,
    prompt: Annotated[int, typer.Option(min=2, help="Tokens of the prompt.")] = 512,
    tokens: Annotated[int, typer.Option(min=4, help="Tokens to write.")] = 64,
    threads: Threads = 2,
    repeat: Repeat = 5,
    layers: Layers = None,
    folder: Annotated[Path, typer.Option(help="Where the models' files are kept.")] = Path("bench-models"),
) -> Job:
    """Prefill and decode of language models against OpenVINO GenAI and llama.cpp."""
    kinds = tuple(weights or ("int8", "int4"))
    settings = {"threads": threads, "rounds": repeat, "prompt": prompt, "tokens": tokens, "layers": layers}

    def measure() -> Mapping[str, Any]:
        return generate.measure(
            models or generate.MODELS,
            weights=kinds,
            prompt=prompt,
            tokens=tokens,
            threads=threads,
            rounds=repeat,
            layers=layers,
            folder=folder,
            say=say,
        )

    return Job(settings, measure)


@benchmark("generate-onnx")
def run_generate_onnx(
    models: Models = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32 or int4, of the file; repeatable.")
    ] = None,
    prompt: Annotated[int, typer.Option(min=2, help="Tokens of the prompt.")] = 256,
    tokens: Annotated[int, typer.Option(min=4, help="Tokens to write.")] = 64,
    threads: Threads = 2,
    repeat: Repeat = 5,
    layers: Layers = None,
    folder: Annotated[Path, typer.Option(help="Where the models' files are kept.")] = Path("bench-models"),
) -> Job:
    """Prefill and decode of an ONNX file of ONNX Runtime GenAI, by that and by forgec."""
    settings = {"threads": threads, "rounds": repeat, "prompt": prompt, "tokens": tokens, "layers": layers}

    def measure() -> Mapping[str, Any]:
        return generate_onnx.measure(
            models or generate_onnx.MODELS,
            precisions=precision or generate_onnx.PRECISIONS,
            prompt=prompt,
            tokens=tokens,
            threads=threads,
            rounds=repeat,
            layers=layers,
            folder=folder,
            say=say,
        )

    return Job(settings, measure)


@benchmark("generate-weights")
def run_generate_weights(
    models: Models = None,
    prompt: Annotated[int, typer.Option(min=2, help="Tokens of the prompt.")] = 128,
    tokens: Annotated[int, typer.Option(min=4, help="Tokens to write.")] = 24,
    threads: Threads = 2,
    repeat: Repeat = 5,
    layers: Layers = None,
    folder: Annotated[Path, typer.Option(help="Where the models' files are kept.")] = Path("bench-models"),
) -> Job:
    """Prefill and decode of one model in 32 bits, in 16, compressed, and with experts gathered."""
    settings = {"threads": threads, "rounds": repeat, "prompt": prompt, "tokens": tokens, "layers": layers}

    def measure() -> Mapping[str, Any]:
        return generate_weights.measure(
            models or generate_weights.MODELS,
            prompt=prompt,
            tokens=tokens,
            threads=threads,
            rounds=repeat,
            layers=layers,
            folder=folder,
            say=say,
        )

    return Job(settings, measure)


@benchmark("streaming")
def run_streaming(
    model: Annotated[str, typer.Argument(help="Preset of a language model.")] = "llama-3.1-8b",
    weights: Annotated[str, typer.Option(help="Format of weights.")] = "int4",
    context: Annotated[int, typer.Option(min=2, help="Longest text.")] = 1024,
    chunk: Annotated[int, typer.Option(min=2, help="Tokens that prefill reads at a time.")] = 32,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to write.")] = 8,
    threads: Threads = 2,
    layers: Layers = None,
    folder: Annotated[Path, typer.Option(help="New folder for the shards; removed.")] = Path("bench-shards"),
) -> Job:
    """Compile shards of random weights that memory need not hold, and run the file."""
    settings = {"threads": threads, "context": context, "chunk": chunk, "layers": layers}

    def measure() -> Mapping[str, Any]:
        return streaming.measure(
            model,
            weights=weights,
            context=context,
            chunk=chunk,
            tokens=tokens,
            threads=threads,
            layers=layers,
            folder=folder,
            say=say,
        )

    return Job(settings, measure)


@benchmark("programs")
def run_programs(
    models: Models = None,
    weights: Annotated[str, typer.Option(help="Format of weights.")] = "int8",
    context: Annotated[int, typer.Option(min=2, help="Longest text.")] = 1024,
    chunk: Annotated[int, typer.Option(min=2, help="Tokens that prefill reads at a time.")] = 128,
    threads: Threads = 2,
    repeat: Repeat = 5,
    layers: Layers = None,
) -> Job:
    """What a further program of a language model adds to its compile."""
    settings = {"threads": threads, "rounds": repeat, "context": context, "chunk": chunk, "layers": layers}

    def measure() -> Mapping[str, Any]:
        return program_time.measure(
            models or program_time.MODELS,
            weights=weights,
            context=context,
            chunk=chunk,
            threads=threads,
            repeat=repeat,
            layers=layers,
            say=say,
        )

    return Job(settings, measure)


@app.command("train")
def run_train(
    folder: Annotated[Path, typer.Argument(help="Hugging Face directory to write.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of 2048 tokens.")] = 400,
    files: Annotated[int, typer.Option(min=10, help="Files of the standard library to learn from.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the weights and the order.")] = 0,
) -> None:
    """Train a small Llama on Python's library, for perplexity and generation."""
    loss = train.train(folder, steps=steps, seed=seed, files=files, say=say)
    typer.echo(f"validation loss {loss:.3f} nats a token (measured)")


@benchmark("perplexity")
def run_perplexity(
    folder: Annotated[Path, typer.Argument(help="What `python -m bench train` wrote.")],
    formats: Annotated[list[str] | None, typer.Option("--weights", help="Formats; repeatable.")] = None,
    windows: Annotated[int, typer.Option(min=1, help="Windows of 128 tokens.")] = 64,
) -> Job:
    """Perplexity and KL divergence of weight formats on the trained model."""
    chosen = tuple(formats or perplexity.FORMATS)

    def measure() -> Mapping[str, Any]:
        return perplexity.measure(folder, formats=chosen, windows=windows, say=say)

    return Job({"windows": windows}, measure)
