"""Settings of the process under which a module is run and traced, by any number of threads at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock

import torch

__all__ = ["own_code", "without_onednn"]


class _Shared:
    """What the first of all threads to enter sets, and the last to leave puts back."""

    def __init__(self, settings: Callable[[], AbstractContextManager[None]]) -> None:
        self._settings = settings
        self._lock = Lock()
        self._inside = 0
        self._changed = ExitStack()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Under the settings."""
        with self._lock:
            if self._inside == 0:
                self._changed.enter_context(self._settings())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._changed.close()


@contextmanager
def _uncompiled() -> Iterator[None]:
    shortcut = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(shortcut)


_uncompiled_shared = _Shared(_uncompiled)
_onednn_shared = _Shared(lambda: torch.backends.mkldnn.flags(enabled=False))


@contextmanager
def own_code() -> Iterator[None]:
    """No gradients, nothing that ``torch.compile`` made, and no shortcut around the code of a module.

    The shortcut is that of ``nn.MultiheadAttention`` and ``nn.TransformerEncoder``, which hands all layers to
    one operator, with a padding mask as nested tensors: results at padding are then 0 instead of computed.
    ``torch.export`` and ``torch.compile`` do not take it either.
    """
    with _uncompiled_shared.entered(), torch.no_grad():
        yield


@contextmanager
def without_onednn() -> Iterator[None]:
    """torch decomposes recurrent layers into operators of its own, and not into one of oneDNN's for each."""
    with _onednn_shared.entered():
        yield
