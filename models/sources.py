"""Where a model specification points: a preset, a Hugging Face directory or a lone `config.json`.

Files are looked at here, and nothing is read but `config.json` and the index of a sharded checkpoint.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgec.errors import ModelError

from .presets import describe, names

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json")
_PICKLES = (".bin", ".pt", ".pth")
_OTHER_WEIGHTS = (*_PICKLES, ".safetensors", ".gguf", ".h5", ".msgpack")


@dataclass(frozen=True)
class Source:
    """What a specification resolves to.

    `content` is the content of a `config.json`; `where` names its file or preset for error messages; `part`
    is set by presets that are one part of a model. `checkpoint` is the directory with the weights, and None
    for random ones. `tokenizer_dir` is the directory of the tokenizer, if there is one.
    """

    name: str
    content: dict[str, Any]
    where: str
    part: str | None = None
    checkpoint: Path | None = None
    tokenizer_dir: Path | None = None


def resolve(spec: str | os.PathLike[str]) -> Source:
    """Find what `spec` means; raises `ModelError` with the nearest thing to try if it means nothing.

    A string that is a preset name is the preset, whatever files there are.
    """
    if isinstance(spec, str) and spec in names():
        preset = describe(spec)
        return Source(preset.name, preset.config_dict(), f"preset {preset.name}", preset.part)
    path = Path(spec)
    if path.is_dir():
        return _directory(path)
    if path.is_file():
        if path.suffix != ".json":
            raise ModelError(
                f"{path} is not a configuration",
                hint="give a Hugging Face directory, its config.json, or a preset name",
            )
        return Source(path.resolve().parent.name, _read_json(path), str(path))
    raise _unknown(str(spec))


def _unknown(spec: str) -> ModelError:
    if not (os.sep in spec or spec.endswith(".json") or spec.startswith(".")):
        try:
            describe(spec)
        except ModelError as err:
            return ModelError(f"{spec!r} is neither a preset nor a directory", hint=err.hint)
    hint = "check the path"
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", spec):
        hint = f"forgec downloads nothing; to use the hub's model: hf download {spec} --local-dir DIR"
    return ModelError(f"there is no file or directory {spec!r}", hint=hint)


def _directory(folder: Path) -> Source:
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(
            "the directory has no config.json", where=str(folder), hint="is it the model's root?"
        )
    stored = _has_safetensors(folder)
    if not stored:
        _refuse_other_weights(folder)
    return Source(
        name=folder.resolve().name,
        content=_read_json(config),
        where=str(config),
        checkpoint=folder if stored else None,
        tokenizer_dir=folder if has_tokenizer(folder) else None,
    )


def has_tokenizer(folder: Path) -> bool:
    """Whether a directory has a tokenizer's files."""
    return any((folder / file).is_file() for file in _TOKENIZER_FILES)


def _has_safetensors(folder: Path) -> bool:
    """Whether the folder has weights under the names that transformers reads; every shard must be there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    try:
        shards = sorted(set(_read_json(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as err:
        raise ModelError("the index of the shards has no weight map", where=str(index)) from err
    if absent := [shard for shard in shards if not (folder / shard).is_file()]:
        raise ModelError(
            f"{len(absent)} of the {len(shards)} weight files are absent: {', '.join(absent)}",
            where=str(folder),
            hint="download the directory again",
        )
    return True


def _refuse_other_weights(folder: Path) -> None:
    """Raise if the folder has weights that are not read: random ones in their place would be a trap."""
    found = sorted(file for file in folder.iterdir() if file.suffix in _OTHER_WEIGHTS)
    if not found:
        return
    first = found[0].name
    if found[0].suffix in _PICKLES:
        raise ModelError(
            f"the weights are pickled ({first}), and unpickling can run any code",
            where=str(folder),
            hint="convert them once, where you trust them: load the model with transformers and call "
            "save_pretrained, which writes safetensors",
        )
    raise ModelError(
        f"the weights are not in model.safetensors or indexed shards of it, but in {first}",
        where=str(folder),
        hint="give the config.json in place of the directory to have random weights",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as err:
        raise ModelError(f"cannot read JSON: {err}", where=str(path)) from err
    if not isinstance(content, dict):
        raise ModelError(f"expected a JSON object, found a {type(content).__name__}", where=str(path))
    return content
