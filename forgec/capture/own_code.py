"""Run a module by its own code, as a capture sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["own_code"]


@contextmanager
def own_code() -> Iterator[None]:
    """No gradients, nothing that ``torch.compile`` made, and no shortcut around the code of a module.

    The shortcut is that of ``nn.MultiheadAttention`` and ``nn.TransformerEncoder``, which hands all layers to
    one operator, with a padding mask as nested tensors: results at padding are then 0 instead of computed.
    ``torch.export`` and ``torch.compile`` do not take it either.
    """
    shortcut = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(shortcut)
