"""Settings of the process under which a module is run and traced, by any number of threads at once."""

from __future__ import annotations

import sys
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


_WITHOUT_SOLVER = "is_torchdynamo_exporting"
"""What some models ask before they solve a triangular system row by row, for exporters without solvers."""


@contextmanager
def _with_solvers() -> Iterator[None]:
    found = [m for name, m in list(sys.modules.items()) if name.startswith("transformers.models.")]
    # Some modules of transformers load what is asked for.
    found = [m for m in found if {_WITHOUT_SOLVER, "torch_chunk_gated_delta_rule"} <= vars(m).keys()]
    kept = [(module, getattr(module, _WITHOUT_SOLVER)) for module in found]
    try:
        for module, _ in kept:
            setattr(module, _WITHOUT_SOLVER, lambda: False)
        yield
    finally:
        for module, before in kept:
            setattr(module, _WITHOUT_SOLVER, before)


_uncompiled_shared = _Shared(_uncompiled)
_solvers_shared = _Shared(_with_solvers)
_onednn_shared = _Shared(lambda: torch.backends.mkldnn.flags(enabled=False))


@contextmanager
def own_code() -> Iterator[None]:
    """No gradients, nothing that ``torch.compile`` made, and no shortcut around the code of a module.

    The shortcut is that of ``nn.MultiheadAttention`` and ``nn.TransformerEncoder``, which hands all layers to
    one operator, with a padding mask as nested tensors: results at padding are then 0 instead of computed.
    ``torch.export`` and ``torch.compile`` do not take it either. Models that do without a solver where they
    are exported use it here.
    """
    with _uncompiled_shared.entered(), _solvers_shared.entered(), torch.no_grad():
        yield


@contextmanager
def without_onednn() -> Iterator[None]:
    """torch decomposes recurrent layers into operators of its own, and not into one of oneDNN's for each."""
    with _onednn_shared.entered():
        yield
