"""Models to compile: presets with seeded random weights, and Hugging Face directories.

    from forgec import models

    models.names(tiny=False)                     # ['gpt2', 'granite-350m', ...]
    model = models.load("gpt2-tiny")             # or a directory with config.json and *.safetensors
    args, kwargs = model.example_inputs(tokens=16)
    model.module(*args, **kwargs)

Nothing here downloads anything or runs code that comes with a model. Importing this package, `names` and
`describe` need no PyTorch; it is imported with the first `load`.
"""

from typing import TYPE_CHECKING, Any

from .packaged import sentence_encoder_dir
from .presets import Preset, describe, names

if TYPE_CHECKING:
    from .loading import LoadedModel, load

__all__ = ["LoadedModel", "Preset", "describe", "load", "names", "sentence_encoder_dir"]


def __getattr__(name: str) -> Any:
    if name in ("LoadedModel", "load"):
        from . import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
