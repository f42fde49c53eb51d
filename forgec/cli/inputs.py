"""Inputs of a program from command-line texts.

``name=file.npy``, ``name=zeros``, ``name=random`` or ``random:SEED``, ``name=1,2,3``, and ``file.npz`` for
all inputs that it names. An input that no text names takes the example that is stored in the file as its
self-test. Random integers are drawn from the range of that example: an index may not leave its table.
"""

from __future__ import annotations

import difflib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..executable import Executable
from ..executable.signature import TensorLeaf

__all__ = ["files_of", "parse_inputs"]


def parse_inputs(texts: Sequence[str], executable: Executable) -> tuple[list[np.ndarray], list[str]]:
    """The arrays in the signature's order, and for each where it comes from.

    Raises :class:`InputError` for a text that cannot be read and for an input without a value; shapes and
    types are for the executable to check.
    """
    leaves = executable.signature.inputs
    stored = executable.selftest.inputs if executable.selftest else ()
    examples = {leaf.name: array for leaf, array in zip(leaves, stored, strict=False)}
    given: dict[str, tuple[np.ndarray, str]] = {}
    by_name = {leaf.name: leaf for leaf in leaves}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals and text.endswith(".npz"):
            found = {key: (array, text) for key, array in _load_npz(text).items()}
        elif equals:
            found = {name: _value(value, _leaf(name, by_name), examples.get(name))}
        else:
            raise InputError(f"{text!r} is no input", hint="write name=file.npy, name=random, or file.npz")
        for key in found:
            _leaf(key, by_name)
        given.update(found)
    arrays, origins = [], []
    for leaf in leaves:
        if leaf.name in given:
            array, origin = given[leaf.name]
        elif leaf.name in examples:
            array, origin = examples[leaf.name], "the stored example"
        else:
            raise InputError(
                f"input {leaf.name!r} ({leaf.type}) has no value, and the file stores no example",
                hint=f"--input {leaf.name}=random",
            )
        arrays.append(array)
        origins.append(origin)
    return arrays, origins


def files_of(texts: Sequence[str]) -> list[Path]:
    """The files that the texts name."""
    return [Path(text.partition("=")[2] or text) for text in texts if text.endswith((".npy", ".npz"))]


def _leaf(name: str, by_name: Mapping[str, TensorLeaf]) -> TensorLeaf:
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "the inputs are " + ", ".join(by_name)
    raise InputError(f"there is no input {name!r}", hint=hint)


def _value(text: str, leaf: TensorLeaf, example: np.ndarray | None) -> tuple[np.ndarray, str]:
    if text == "zeros":
        return np.zeros(leaf.type.shape, leaf.type.dtype.numpy), "zeros"
    word, _, seed = text.partition(":")
    if word == "random" and (not seed or seed.isdigit()):
        return _random(leaf, example, int(seed or 0)), f"random, seed {int(seed or 0)}"
    if text.endswith(".npy"):
        return _load_npy(text), text
    try:
        numbers = json.loads(f"[{text}]")
        array = np.asarray(numbers, dtype=leaf.type.dtype.numpy)
    except (ValueError, TypeError, OverflowError):
        raise InputError(
            f"{text!r} is no value for the input {leaf.name!r}",
            hint="give file.npy, zeros, random, random:SEED or numbers like 1,2,3",
        ) from None
    if array.size == leaf.type.numel:
        array = array.reshape(leaf.type.shape)
    return array, "the command line"


def _random(leaf: TensorLeaf, example: np.ndarray | None, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dtype = leaf.type.dtype
    if dtype.is_float:
        return rng.standard_normal(leaf.type.shape).astype(dtype.numpy)
    low, high = (0, 1) if example is None or not example.size else (int(example.min()), int(example.max()))
    return rng.integers(low, high, leaf.type.shape, endpoint=True).astype(dtype.numpy)


def _load_npy(name: str) -> np.ndarray:
    try:
        return np.asarray(np.load(Path(name), allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {name}: {_why(error)}") from None


def _load_npz(name: str) -> dict[str, np.ndarray]:
    try:
        with np.load(Path(name), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {name}: {_why(error)}") from None


def _why(error: Exception) -> str:
    """What numpy says, but that whatever it does not know could be loaded as Python objects."""
    return "it holds no arrays of numbers" if "pickle" in str(error) else str(error)
