"""A checkpoint as a model that is compiled without being loaded: large weights are read when they are
written.

Capture and passes need the shapes of large weights and the values of small ones (a norm that is the same in
all layers is one constant). So small tensors are read at once, and each large one is a stand-in of a single
zero, expanded, that takes no memory; :class:`Checkpoint` gives its values, one tensor at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forgec.passes.block_specialisation import COMPARED
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from forgec.errors import ModelError

from .building import random_model

__all__ = ["Checkpoint", "check_types", "stand_in_model"]

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


SMALL = COMPARED
"""Bytes up to which a tensor is read at once: those whose values a pass may look at."""


class Checkpoint:
    """The tensors of a folder's safetensors files by name; reads one when it is asked for."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._folder = folder
        self._dtype = dtype
        index = folder / "model.safetensors.index.json"
        files = ["model.safetensors"]
        if index.is_file():
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        self._files: dict[str, str] = {}
        for file in files:
            with self._open(file) as shard:
                self._files.update(dict.fromkeys(shard.keys(), file))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> torch.Tensor:
        """A tensor in the model's data type; :class:`ModelError` if its file is damaged."""
        with self._open(self._files[name]) as shard:
            try:
                return _converted(shard.get_tensor(name), self._dtype)
            except (SafetensorError, OSError, RuntimeError) as error:
                raise ModelError(f"{name} cannot be read: {error}", str(self._folder)) from error

    def layout(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and data type of a tensor; :class:`ModelError` if it is not of floating-point numbers."""
        with self._open(self._files[name]) as shard:
            part = shard.get_slice(name)
            if part.get_dtype() not in _FLOATS:
                raise ModelError(
                    f"{name} is stored as {part.get_dtype()}",
                    str(self._folder),
                    f"weights must be one of {', '.join(_FLOATS)}: load the float checkpoint",
                )
            return tuple(part.get_shape()), _FLOATS[part.get_dtype()]

    def _open(self, file: str) -> Any:
        try:
            return safe_open(self._folder / file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} cannot be read: {error}",
                str(self._folder),
                "download the directory again: the file is absent or cut short",
            ) from error


@dataclass(frozen=True)
class Reader:
    """What reads one tensor, in the model's data type. ``dtype`` is the one in the file."""

    checkpoint: Checkpoint
    name: str
    dtype: torch.dtype

    def __call__(self) -> torch.Tensor:
        return self.checkpoint.read(self.name)


Readers = Mapping[str, Reader]


def _converted(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor in a data type. numpy asks for large pages, in which that takes a third of the time."""
    if tensor.dtype is dtype:
        return tensor
    memory = torch.from_numpy(np.empty(tensor.numel() * dtype.itemsize, np.uint8))
    return memory.view(dtype).reshape(tensor.shape).copy_(tensor)


def stand_in_model(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    folder: Path,
    *,
    attn: str | None,
    dtype: torch.dtype,
) -> tuple[PreTrainedModel, Readers]:
    """The model with stand-ins for its large weights, and what reads each of them, by its name in the model.

    Raises :class:`ModelError` if a file is damaged or a weight is absent or of another shape.
    """
    checkpoint = Checkpoint(folder, dtype)
    with torch.device("meta"):
        model = random_model(cls, config, seed=0, attn=attn, dtype=dtype)
    model.eval().requires_grad_(False)
    _fill_buffers(model)
    readers: dict[str, Reader] = {}
    done: dict[int, nn.Parameter] = {}
    missing, wrong = [], []
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        stored = _stored_name(name, checkpoint, model, tied)
        if stored is None:
            missing.append(name)
            continue
        shape, stored_dtype = checkpoint.layout(stored)
        if shape != tuple(parameter.shape):
            wrong.append(f"{name} is {list(shape)}, not {list(parameter.shape)}")
            continue
        readers[name] = Reader(checkpoint, stored, stored_dtype)
        new = done.get(id(parameter))
        if new is None:
            values = (
                checkpoint.read(stored)
                if parameter.nbytes <= SMALL
                else torch.zeros((), dtype=dtype).expand(parameter.shape)
            )
            new = done[id(parameter)] = nn.Parameter(values, requires_grad=False)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, new)
    if missing or wrong:
        what = wrong or [f"the checkpoint lacks {', '.join(missing[:5])}"]
        raise ModelError(f"the weights do not fit {cls.__name__}: {'; '.join(what[:5])}", str(folder))
    return model, readers


def check_types(model: PreTrainedModel, folder: Path) -> None:
    """Raise :class:`ModelError` if a weight of the model is not stored as floating-point numbers: a load
    would convert it in silence."""
    checkpoint = Checkpoint(folder, torch.float32)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    for name, _ in model.named_parameters():
        stored = _stored_name(name, checkpoint, model, tied)
        if stored is not None:
            checkpoint.layout(stored)


def _stored_name(
    name: str, checkpoint: Checkpoint, model: PreTrainedModel, tied: Mapping[str, str]
) -> str | None:
    """The name that a parameter has in the files: its own, that of what it is tied to, or without the
    prefix of the base model."""
    for candidate in (name, tied.get(name, name)):
        for form in (candidate, candidate.removeprefix(f"{model.base_model_prefix}.")):
            if form in checkpoint:
                return form
    return None


def _fill_buffers(model: PreTrainedModel) -> None:
    """Compute the model's tables, which are in no file (rotary frequencies), by its own rule."""
    for module in model.modules():
        tables = dict(module.named_buffers(recurse=False))
        for key, table in tables.items():
            persistent = key not in module._non_persistent_buffers_set
            module.register_buffer(key, torch.empty_like(table, device="cpu"), persistent=persistent)
        if tables and not any(True for _ in module.parameters(recurse=False)):
            model._init_weights(module)
