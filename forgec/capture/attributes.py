"""Attributes of modules that are neither parameters nor buffers, and what a run on fake tensors leaves there.

A model may keep a table that it makes in its first call. A fake one must not stay in the user's model, and a
trace that sees one kept does not say what the next call would do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

__all__ = ["KeptTensorError", "attributes_kept"]

_OWN = frozenset(vars(nn.Module()))
"""What every module has, parameters, buffers and children among it."""


class KeptTensorError(Exception):
    """A run put a tensor into an attribute of a module."""


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Attributes of all modules are what they were when this ends, lists and dictionaries by their content;
    :class:`KeptTensorError` if one was given a tensor that is no weight of the module's, of which recurrent
    layers keep a list."""
    before = [(path, module, _attributes(module)) for path, module in model.named_modules()]
    changed: list[str] = []
    try:
        yield
    finally:
        for path, module, attributes in before:
            now = vars(module)
            for name in [name for name in now if name not in _OWN]:
                value, content = attributes.get(name, (None, None))
                kept = _tensors(now[name])
                if not _same(kept, _tensors(content)) and not _among(kept, module):
                    changed.append(f"{path}.{name}".lstrip("."))
                if name not in attributes:
                    del now[name]
            for name, (value, content) in attributes.items():
                now[name] = value
                if isinstance(value, dict):
                    value.clear()
                    value.update(content)
                elif isinstance(value, list):
                    value[:] = content
    if changed:
        raise KeptTensorError(f"a tensor is kept in {', '.join(changed)}")


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """By name the value, and its content, which stays as it is."""
    return {
        name: (value, copy(value) if isinstance(value, dict | list) else value)
        for name, value in vars(module).items()
        if name not in _OWN
    }


def _tensors(value: Any) -> list[torch.Tensor]:
    if not isinstance(value, torch.Tensor | dict | list | tuple):
        return []
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


def _among(tensors: list[torch.Tensor], module: nn.Module) -> bool:
    own = {id(x) for x in vars(module)["_parameters"].values()}
    return bool(tensors) and all(id(x) in own for x in tensors)


def _same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))
