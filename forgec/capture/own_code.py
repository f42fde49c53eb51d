"""Run a module by its own code, as a capture sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch

__all__ = ["own_code"]

_lock = Lock()
_inside = 0
_settings = ExitStack()
"""What puts torch's settings back, while anybody is inside."""


@contextmanager
def own_code() -> Iterator[None]:
    """No gradients, nothing that ``torch.compile`` made, and no shortcut around the code of a module.

    The shortcut is that of ``nn.MultiheadAttention`` and ``nn.TransformerEncoder``, which hands all layers to
    one operator, with a padding mask as nested tensors: results at padding are then 0 instead of computed.
    ``torch.export`` and ``torch.compile`` do not take it either. Both settings are those of the process, so
    the last of all threads to leave puts them back.
    """
    _enter()
    try:
        with torch.no_grad():
            yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _settings
    with _lock:
        if _inside == 0:
            with ExitStack() as changed:
                shortcut = torch.backends.mha.get_fastpath_enabled()
                changed.callback(torch.backends.mha.set_fastpath_enabled, shortcut)
                torch.backends.mha.set_fastpath_enabled(False)
                changed.enter_context(torch.compiler.set_stance("force_eager"))
                _settings = changed.pop_all()
        _inside += 1


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside == 0:
            _settings.close()
