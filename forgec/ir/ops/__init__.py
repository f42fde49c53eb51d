"""The op records, by family. Importing this package registers them all."""

from . import (
    attention,
    calibrated,
    compressed,
    elementwise,
    indexing,
    linear,
    normalisation,
    reduction,
    rows,
    shape,
    structure,
)
