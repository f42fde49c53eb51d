"""The op records, by family. Importing this package registers them all."""

from . import (
    aten,
    attention,
    calibrated,
    compressed,
    elementwise,
    indexing,
    linear,
    normalisation,
    pooling,
    reduction,
    rows,
    shape,
    structure,
)
