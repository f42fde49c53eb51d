"""The model that ``-m`` names, with example inputs: what a verb compiles or compares with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..options import Options
from .output import Output

if TYPE_CHECKING:
    from ..executable import Executable, Programs

__all__ = [
    "Subject",
    "compile_subject",
    "compile_text_model",
    "files_of_model",
    "is_exported",
    "is_onnx",
    "load_subject",
    "require_targets",
    "require_text_sizes",
]

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword inputs."""


_MODEL_FILES = (
    "config.json", "generation_config.json", "*.safetensors", "*.index.json", "tokenizer*", "vocab*",
    "merges.txt", "special_tokens_map.json", "chat_template*",
)  # fmt: skip
"""What is read of a model's directory, if it is there."""


@dataclass(frozen=True)
class Subject:
    """``model`` is an ``nn.Module`` or an ``ExportedProgram``, which knows no inputs but its own examples;
    ``draw(seed)`` gives valid inputs."""

    name: str
    model: Any
    draw: Callable[[int], Inputs]
    weights: str = ""
    """Where the weights come from, for the artifact to say."""
    fixed: bool = False
    """Whether all seeds give the same inputs."""
    reference: Callable[[tuple[Any, ...], Mapping[str, Any]], Any] | None = None
    """What computes the model without PyTorch: its name and outputs, or why there are none."""
    reference_precisions: frozenset[str] = frozenset()
    """What that computes in beside f32."""


def is_exported(spec: str) -> bool:
    """Whether a specification names an exported program, which fixes its sizes."""
    return spec.endswith(".pt2")


def is_onnx(spec: str) -> bool:
    """Whether a specification names an ONNX file, whose inputs have shapes of their own."""
    return spec.endswith(".onnx")


def files_of_model(spec: str) -> list[Path]:
    """The files that are read for a specification, as far as their names tell."""
    from .. import models

    path = Path(spec)
    if spec in models.names():
        return []
    if path.is_dir():
        return [file for pattern in _MODEL_FILES for file in path.glob(pattern)]
    external = [*path.parent.glob(f"{path.name}[._]data*")] if is_onnx(spec) and path.is_file() else []
    return [path, *external]


def require_targets(names: Iterable[str]) -> None:
    """Find out before a model is loaded that a target does not exist; :class:`TargetError`."""
    from .. import backends

    for name in names:
        backends.resolve(name)


def load_subject(
    spec: str,
    output: Output,
    *,
    tokens: int | None = None,
    batch: int = 1,
    seed: int = 0,
    part: str | None = None,
    attn: str = "auto",
    layers: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Subject:
    """Load what a ``-m`` specification names; :class:`ModelError` if there is no such model.

    ``shapes`` are those of an ONNX file's inputs. Raises :class:`OptionError` if sizes are asked of a
    ``.pt2`` file, which fixes its own, or shapes of anything but an ONNX file.
    """
    output.note(f"loading {spec}")
    if is_onnx(spec):
        if layers is not None or part is not None:
            raise OptionError(
                f"{spec} fixes its depth and is one program", hint="leave out --layers and --part"
            )
        from ..capture.onnx import OnnxModel

        model = OnnxModel(spec, shapes=shapes, tokens=tokens, batch=batch)
        module = model.module
        return Subject(
            model.name,
            module,
            model.example_inputs,
            spec,
            reference=module.reference_results,
            reference_precisions=module.reference_precisions,
        )
    if shapes:
        raise OptionError(f"--shape is for ONNX files, and {spec} is none", hint="use --tokens and --batch")
    if is_exported(spec):
        if tokens is not None or batch != 1 or layers is not None or part is not None:
            raise OptionError(
                f"{spec} fixes its sizes", hint="leave out --tokens, --batch, --layers and --part"
            )
        from ..capture.pt2 import load_pt2

        program = load_pt2(Path(spec))
        args, kwargs = program.example_inputs or ((), {})
        return Subject(Path(spec).stem, program, lambda seed: (tuple(args), kwargs), spec, fixed=True)
    from .. import models

    loaded = models.load(spec, part=part, seed=seed, attn=attn, layers=layers)
    return Subject(
        name=loaded.name,
        model=loaded.module,
        draw=lambda number: loaded.example_inputs(tokens=tokens, batch=batch, seed=number),
        weights=f"random, seed {seed}" if loaded.weights == "random" else spec,
    )


def require_text_sizes(
    context: int | None,
    chunks: list[int] | None,
    *,
    tokens: int | None,
    batch: int,
    shapes: Mapping[str, tuple[int, ...]] | None,
    part: str | None,
) -> None:
    """:class:`OptionError` for sizes beside ``--context``, and for those that need it, without."""
    if context is None:
        if chunks:
            raise OptionError("--chunk is for models that write text", hint="give --context N too")
        return
    if tokens is not None or batch != 1 or shapes:
        raise OptionError(
            "--context and --chunk give all sizes", hint="leave out --tokens, --batch and --shape"
        )
    if part is not None:
        raise OptionError("--context is for models of one part", hint="leave out --context or --part")


def compile_text_model(
    spec: str,
    output: Output,
    *,
    context: int,
    chunks: list[int] | None,
    target: str,
    options: Options,
    attn: str,
    layers: int | None,
    calibration: str | None = None,
    seed: int = 0,
) -> Programs:
    """Compile the language model that a specification names, with a progress display."""
    from .. import models
    from ..language import compile_language_model

    if is_exported(spec):
        raise OptionError(
            f"{spec} has no cache",
            hint="give a preset, a Hugging Face directory or an ONNX file with a cache",
        )
    output.note(f"loading {spec}")
    if is_onnx(spec):
        if layers is not None:
            raise OptionError(f"{spec} fixes its depth", hint="leave out --layers")
        model: Any = spec
    else:
        # The check and a calibration run the model; without them, a checkpoint is never loaded as a whole.
        stream = not options.check and calibration is None
        model = models.load(spec, seed=seed, attn=attn, layers=layers, stream=stream)
    with output.progress() as progress:
        return compile_language_model(
            model,
            context=context,
            chunks=chunks,
            target=target,
            options=options,
            calibration=calibration,
            progress=progress,
        )


def compile_subject(
    subject: Subject, output: Output, *, target: str, options: Options | None = None
) -> Executable:
    """Compile on the inputs of seed 0 with a progress display; without ``options``, without the check."""
    from ..compile import compile as compile_model

    args, kwargs = subject.draw(0)
    with output.progress() as progress:
        return compile_model(
            subject.model,
            args,
            kwargs,
            target=target,
            options=options or Options(check=False),
            progress=progress,
            name=subject.name,
            origin=subject.weights,
        )
