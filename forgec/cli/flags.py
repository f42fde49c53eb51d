"""The flags that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import OptionError
from .output import Format

__all__ = [
    "Artifact",
    "Attention",
    "Batch",
    "Chunks",
    "Context",
    "FormatFlag",
    "Layers",
    "ModelFlag",
    "OptionalModel",
    "Part",
    "Program",
    "ProgramName",
    "ProgramOrTarget",
    "Quiet",
    "Seed",
    "Shape",
    "Target",
    "Threads",
    "Tokens",
    "parse_shapes",
]

_MODEL_HELP = "Preset name, Hugging Face directory, config.json, .onnx or .pt2 file."

ModelFlag = Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help=_MODEL_HELP)]
OptionalModel = Annotated[str | None, typer.Option("--model", "-m", metavar="MODEL", help=_MODEL_HELP)]
Target = Annotated[
    str, typer.Option("--target", "-t", metavar="TARGET", help="Device to compile for; auto: what is here.")
]
Program = Annotated[
    str | None,
    typer.Option("--target", "-t", metavar="TARGET", help="Of a file for several: the program to take."),
]
ProgramName = Annotated[
    str | None,
    typer.Option(
        "--program",
        metavar="NAME",
        help="Of a file with several.  [default: the main one]",
    ),
]
ProgramOrTarget = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        metavar="TARGET",
        help="Of a file for several: the program to take; with -m: device to compile for.  [default: cpu]",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Threads of a run.  [default: FORGEC_THREADS, or one per core]"),
]
Tokens = Annotated[
    int | None, typer.Option(metavar="N", help="Length of the token axis.  [default: 128, or less]")
]
Shape = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="INPUT=N,N", help="Shape of an ONNX file's input, repeatable."),
]
Batch = Annotated[int, typer.Option(metavar="N", help="Size of the batch axis.")]
Part = Annotated[
    str | None,
    typer.Option(
        metavar="encoder|decoder", help="Of a directory's sequence-to-sequence model: what to take."
    ),
]
Attention = Annotated[
    str,
    typer.Option(metavar="auto|sdpa|eager", help="How the model computes attention; auto: sdpa if it can."),
]
Context = Annotated[
    int | None,
    typer.Option(metavar="N", help="A language model for texts of up to N tokens (see generate)."),
]
Chunks = Annotated[
    list[int] | None,
    typer.Option(
        "--chunk",
        metavar="N",
        help="With --context: read prompts N at a time; repeatable.  [default: 128, beside recurrent "
        "layers 128 and 16]",
    ),
]
Layers = Annotated[int | None, typer.Option(metavar="N", help="Depth, instead of the configuration's.")]
Weights = Annotated[
    str | None,
    typer.Option(metavar="FORMAT[,PATTERN=FORMAT]", help="Format of weights.  [default: auto]"),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of random weights and example inputs.")]
FormatFlag = Annotated[Format, typer.Option("--format", help="How to print the result.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
Artifact = Annotated[Path, typer.Argument(metavar="FILE.forge", help="A compiled program.")]


def parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]] | None:
    """``["input_ids=1,128"]`` as ``{"input_ids": (1, 128)}``; :class:`OptionError` for another form."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or ():
        name, equals, sizes = text.rpartition("=")
        parts = [part.strip() for part in sizes.split(",")] if sizes else []
        if not equals or not name or not all(part.isdecimal() for part in parts):
            raise OptionError(f"--shape {text} is no shape", hint="write it as --shape input_ids=1,128")
        shapes[name] = tuple(map(int, parts))
    return shapes or None
