"""``python -m bench``: run one benchmark, or render the results that are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from . import (
    calibrate,
    compile_time,
    fidelity,
    fusion,
    generate,
    kernels,
    latency,
    load_time,
    machine,
    memory,
    npu,
    perplexity,
    report,
    scaling,
    streaming,
    tools,
    train,
)
from .results import FOLDER, Result, load_all
from .tables import Table

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
_progress = Console(stderr=True)
_PIPE_WIDTH = 220
"""Columns of tables that go to a file: enough for every table to keep its rows on one line."""

Models = Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Presets of forgec.models.")]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens of the example inputs.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of every tool.")]
Layers = Annotated[int | None, typer.Option(min=1, help="Another depth than the preset's.")]
Repeat = Annotated[int, typer.Option(min=1, help="Rounds.")]
Save = Annotated[bool, typer.Option("--save", help="Keep the result in bench/results.")]
Label = Annotated[str, typer.Option(help="Added to the name of the result file.")]
Note = Annotated[str, typer.Option(help="What else the machine was doing, for the record.")]


@app.command("compile")
def run_compile(
    models: Models = None,
    tokens: Tokens = 128,
    threads: Threads = 2,
    repeat: Repeat = 5,
    layers: Layers = None,
    memory: Annotated[bool, typer.Option(help="Measure peak memory too, in fresh processes.")] = True,
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
    """Compile time: forgec, OpenVINO and ONNX Runtime, round-robin."""
    chosen = models or compile_time.MODELS
    settings = {"tokens": tokens, "threads": threads, "rounds": repeat, "layers": layers}

    def measure() -> Mapping[str, Any]:
        return compile_time.measure(
            chosen, tokens=tokens, threads=threads, repeat=repeat, layers=layers, memory=memory, say=_say
        )

    _run(compile_time.NAME, settings, measure, save, label, note)


@app.command("scaling")
def run_scaling(
    tokens: Tokens = 128,
    threads: Threads = 2,
    repeat: Repeat = 3,
    depth: Annotated[list[int] | None, typer.Option(min=1, help="Layers; give it several times.")] = None,
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
    """Growth of forgec's phases with the number of layers."""
    settings = {"tokens": tokens, "threads": threads, "rounds": repeat}

    def measure() -> Mapping[str, Any]:
        return scaling.measure(
            depths=depth or scaling.DEPTHS, tokens=tokens, threads=threads, repeat=repeat, say=_say
        )

    _run(scaling.NAME, settings, measure, save, label, note)


@app.command("memory")
def run_memory(
    models: Models = None,
    tokens: Tokens = 128,
    threads: Threads = 2,
    layers: Layers = None,
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
    """Peak memory of compile, save, load and first run."""
    settings = {"tokens": tokens, "threads": threads, "layers": layers}

    def measure() -> Mapping[str, Any]:
        chosen = models or memory.MODELS
        return memory.measure(chosen, tokens=tokens, threads=threads, layers=layers, say=_say)

    _run(memory.NAME, settings, measure, save, label, note)


@app.command("fidelity")
def run_fidelity(
    models: Models = None,
    tokens: Annotated[list[int] | None, typer.Option(min=1, help="Lengths; give it several times.")] = None,
    threads: Threads = 2,
    layers: Layers = None,
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
    """Difference from eager PyTorch, nodes and memory plan of every preset."""
    lengths = tuple(tokens or fidelity.TOKENS)
    settings = {"tokens": lengths, "seeds": fidelity.SEEDS, "threads": threads}

    def measure() -> Mapping[str, Any]:
        chosen = models or fidelity.MODELS
        return fidelity.measure(chosen, tokens=lengths, threads=threads, layers=layers, say=_say)

    _run(fidelity.NAME, settings, measure, save, label, note)


@app.command("latency")
def run_latency(
    models: Models = None,
    tokens: Tokens = 128,
    threads: Threads = 2,
    repeat: Repeat = 5,
    burst: Annotated[int, typer.Option(min=1, help="Timed runs of a tool in one round.")] = 10,
    layers: Layers = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences in one run.")] = 1,
    int8: Annotated[bool, typer.Option("--int8", help="Against the peers' own int8.")] = False,
    reports: Annotated[
        Path | None, typer.Option(help="Folder for forgec's reports, with the CEI filled in.")
    ] = None,
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
    """Latency against eager, OpenVINO, ONNX Runtime and torch.compile; CEI."""
    chosen = models or latency.MODELS
    names = tools.INT8 if int8 else ("forgec", *tools.BASELINES)
    settings = {"tokens": tokens, "threads": threads, "rounds": repeat, "burst": burst, "layers": layers}

    def measure() -> Mapping[str, Any]:
        data, made = latency.measure(
            chosen,
            tokens=tokens,
            threads=threads,
            rounds=repeat,
            burst=burst,
            layers=layers,
            batch=batch,
            names=names,
            say=_say,
        )
        for found in made if reports is not None else []:
            assert reports is not None
            found.save(reports / f"{found.model}.json")
        return data

    _run(latency.NAME, settings, measure, save, label, note)


@app.command("load")
def run_load(
    models: Models = None,
    tokens: Tokens = 128,
    threads: Threads = 2,
    repeat: Repeat = 5,
    layers: Layers = None,
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
    """From a file to the first outputs in a fresh process: forgec, OpenVINO, ONNX Runtime."""
    settings = {"tokens": tokens, "threads": threads, "rounds": repeat, "layers": layers}

    def measure() -> Mapping[str, Any]:
        chosen = models or load_time.MODELS
        return load_time.measure(
            chosen, tokens=tokens, threads=threads, repeat=repeat, layers=layers, say=_say
        )

    _run(load_time.NAME, settings, measure, save, label, note)


@app.command("fusion")
def run_fusion(
    models: Models = None,
    tokens: Tokens = 128,
    threads: Threads = 2,
    repeat: Repeat = 15,
    layers: Layers = None,
    calibration: Annotated[Path | None, typer.Option(help="Another calibration than the default.")] = None,
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
    """Fusion Gain Ratio: estimated, and measured."""
    settings = {"tokens": tokens, "threads": threads, "rounds": repeat, "layers": layers}
    record = None if calibration is None else calibrate.load(calibration)

    def measure() -> Mapping[str, Any]:
        return fusion.measure(
            models or fusion.MODELS,
            tokens=tokens,
            threads=threads,
            rounds=repeat,
            layers=layers,
            calibration=record,
            say=_say,
        )

    _run(fusion.NAME, settings, measure, save, label, note)


@app.command("npu")
def run_npu(
    models: Models = None,
    target: Annotated[
        list[str] | None, typer.Option("-t", "--target", help="Several times for several.")
    ] = None,
    tokens: Tokens = 128,
    layers: Layers = None,
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
    """Intel's NPUs, simulated: forgec folded and not, against OpenVINO's conversion."""
    chosen, targets = models or npu.MODELS, target or npu.TARGETS

    def measure() -> Mapping[str, Any]:
        return npu.measure(chosen, targets, tokens=tokens, layers=layers, say=_say)

    _run(npu.NAME, {"tokens": tokens, "layers": layers}, measure, save, label, note)


@app.command("kernels")
def run_kernels(
    threads: Threads = 2,
    repeat: Repeat = 9,
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
    """Products with compressed weights against f32, the memory's bandwidth and the arithmetic's peak."""

    def measure() -> Mapping[str, Any]:
        return kernels.measure(threads=threads, rounds=repeat, say=_say)

    _run(kernels.NAME, {"threads": threads, "rounds": repeat}, measure, save, label, note)


@app.command("generate")
def run_generate(
    models: Models = None,
    weights: Annotated[list[str] | None, typer.Option(help="int8, int4 or int4:32; repeatable.")] = None,
    prompt: Annotated[int, typer.Option(min=2, help="Tokens of the prompt.")] = 512,
    tokens: Annotated[int, typer.Option(min=4, help="Tokens to write.")] = 64,
    threads: Threads = 2,
    repeat: Repeat = 5,
    layers: Layers = None,
    folder: Annotated[Path, typer.Option(help="Where the models' files are kept.")] = Path("bench-models"),
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
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
            say=_say,
        )

    _run(generate.NAME, settings, measure, save, label, note)


@app.command("streaming")
def run_streaming(
    model: Annotated[str, typer.Argument(help="Preset of a language model.")] = "llama-3.1-8b",
    weights: Annotated[str, typer.Option(help="Format of weights.")] = "int4",
    context: Annotated[int, typer.Option(min=2, help="Longest text.")] = 1024,
    chunk: Annotated[int, typer.Option(min=2, help="Tokens that prefill reads at a time.")] = 32,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to write.")] = 8,
    threads: Threads = 2,
    layers: Layers = None,
    folder: Annotated[Path, typer.Option(help="New folder for the shards; removed.")] = Path("bench-shards"),
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
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
            say=_say,
        )

    _run(streaming.NAME, settings, measure, save, label, note)


@app.command("train")
def run_train(
    folder: Annotated[Path, typer.Argument(help="Hugging Face directory to write.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of 2048 tokens.")] = 400,
    files: Annotated[int, typer.Option(min=10, help="Files of the standard library to learn from.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the weights and the order.")] = 0,
) -> None:
    """Train a small Llama on Python's library, for perplexity and generation."""
    loss = train.train(folder, steps=steps, seed=seed, files=files, say=_say)
    typer.echo(f"validation loss {loss:.3f} nats a token (measured)")


@app.command("perplexity")
def run_perplexity(
    folder: Annotated[Path, typer.Argument(help="What `python -m bench train` wrote.")],
    formats: Annotated[list[str] | None, typer.Option("--weights", help="Formats; repeatable.")] = None,
    windows: Annotated[int, typer.Option(min=1, help="Windows of 128 tokens.")] = 64,
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
    """Perplexity and KL divergence of weight formats on the trained model."""
    chosen = tuple(formats or perplexity.FORMATS)

    def measure() -> Mapping[str, Any]:
        return perplexity.measure(folder, formats=chosen, windows=windows, say=_say)

    _run(perplexity.NAME, {"windows": windows}, measure, save, label, note)


@app.command("calibrate")
def run_calibrate(
    threads: Threads = 2,
    every: Annotated[int, typer.Option(min=1, help="Take only every n-th case of each op.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the calibration to this JSON file.")] = None,
    save: Save = False,
    label: Label = "",
    note: Note = "",
) -> None:
    """Fit the cost model to the CPU backend's kernels on this machine."""

    def measure() -> Mapping[str, Any]:
        data = calibrate.measure(threads=threads, every=every, say=_say)
        if out is not None:
            calibrate.write(data, out)
        return data

    _run(calibrate.NAME, {"threads": threads, "every": every}, measure, save, label, note)


@app.command("report")
def run_report(
    only: Annotated[str | None, typer.Option(help="One benchmark's tables, without the text around.")] = None,
    write: Annotated[Path | None, typer.Option(help="A file, in place of the standard output.")] = None,
) -> None:
    """Render the results that are kept, as Markdown."""
    if only is not None and only not in report.BENCHMARKS:
        raise typer.BadParameter(f"there is no benchmark {only!r}: {', '.join(report.BENCHMARKS)}")
    results = load_all()
    text = report.document(results) if only is None else report.markdown(results, only)
    if write is None:
        typer.echo(text, nl=False)
    else:
        write.write_text(text, encoding="utf-8")


def _say(text: str) -> None:
    _progress.print(text, style="dim", markup=False, highlight=False)


def _run(
    name: str,
    settings: Mapping[str, Any],
    measure: Callable[[], Mapping[str, Any]],
    save: bool,
    label: str,
    note: str,
) -> None:
    """Measure, print the tables, keep the result if asked."""
    before = machine.load_average()
    cores = machine.describe()["cores"]
    if before > cores / 2:
        _say(f"the machine is busy, load average {before} on {cores} cores: ratios may do, times will not")
    result = Result.now(name, settings, before, note, measure())
    _print(report.tables(result))
    if save:
        _say(f"kept as {result.save(FOLDER, label)}")


def _print(tables: Sequence[Table]) -> None:
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=_PIPE_WIDTH)
    for table in tables:
        if table.rows:
            table.print(console)


if __name__ == "__main__":
    app()
