"""The converters, by family; importing this package registers them all."""

from . import (
    attention,
    elementwise,
    indexing,
    matrix,
    normalisation,
    pooling,
    quantisation,
    reduction,
    resize,
    shape,
)
