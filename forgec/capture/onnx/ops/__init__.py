"""The converters, by family; importing this package registers them all."""

from . import (
    attention,
    codebooks,
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
