"""Read a saved ``.pt2`` exported program without running any code that the file brings along."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from unittest import mock

import torch
from torch.export import ExportedProgram

from ..errors import CaptureError
from .export import quiet
from .source import first_line

__all__ = ["load_pt2"]

_SPEC_LIMIT = 64 * 2**20
_CONTAINER = re.compile(rb'\\"type\\": ?\\"(transformers(?:\.\w+)*)\.\w+\\"')
"""The module, in transformers, of a class in the description of inputs and outputs, which is text in JSON."""


def load_pt2(path: Path) -> ExportedProgram:
    """Load a ``.pt2`` file saved by ``torch.export.save``.

    Tensors are read with torch's restricted loader. A file with other pickled objects, among its constants,
    weights or example inputs, is refused, because reading them would run code from the file. Raises
    ``CaptureError``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_objects(archive, path)
            _import_containers(archive)
    except FileNotFoundError:
        raise CaptureError(f"there is no file {path}", hint="check the path") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise CaptureError(
            f"{path} is not a .pt2 file: {error}",
            hint="save the program with torch.export.save(program, path)",
        ) from error
    try:
        with quiet(), _restricted():
            return torch.export.load(path)
    except UnpicklingError as error:
        raise CaptureError(
            f"{path} holds a pickled object that is no tensor; forgec does not unpickle files",
            hint="set program.example_inputs = None before torch.export.save, if these hold such objects",
        ) from error
    except Exception as error:
        raise CaptureError(
            f"torch cannot load {path}: {type(error).__name__}: {first_line(error)}",
            hint=f"it may come from another version of torch (this is {torch.__version__}); export it again",
        ) from error


def _import_containers(archive: zipfile.ZipFile) -> None:
    """Import what transformers calls the outputs of a model: torch finds such a type by its name in the file,
    and knows it when its module was imported."""
    if importlib.util.find_spec("transformers") is None:
        return
    for info in archive.infolist():
        if info.filename.endswith("models/model.json"):
            for module in sorted({m.decode() for m in _CONTAINER.findall(archive.read(info))}):
                with suppress(ImportError):
                    importlib.import_module(module)


@contextmanager
def _restricted() -> Iterator[None]:
    """While this is open, ``torch.load`` reads nothing but tensors and plain containers in this thread. Of an
    exported program torch would read anything."""
    here, load = threading.get_ident(), torch.load

    def restricted(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == here:
            kwargs["weights_only"] = True
        return load(*args, **kwargs)

    with mock.patch.object(torch, "load", restricted):
        yield


def _refuse_objects(archive: zipfile.ZipFile, path: Path) -> None:
    for info in archive.infolist():
        if not info.filename.endswith("constants_config.json"):
            continue
        if info.file_size > _SPEC_LIMIT:
            raise CaptureError(f"{path}: {info.filename} is {info.file_size} bytes, over the limit")
        try:
            entries = json.loads(archive.read(info)).get("config", {})
            objects = [name for name, meta in entries.items() if meta.get("tensor_meta") is None]
        except (ValueError, AttributeError) as error:
            raise CaptureError(f"{path}: {info.filename} cannot be read: {error}") from error
        if objects:
            raise CaptureError(
                f"{path} holds a pickled object ({objects[0]}); forgec does not unpickle files",
                hint="export the model without custom objects among its constants",
            )
