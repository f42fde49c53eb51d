"""Emission: a flat IR segment as an ONNX model, in the forms that the HTP compiler handles best.

One file per family of ops fills the table :data:`EMITTERS`; :func:`emit` walks the segment once. The model
computes in one float type (f16 for the device, f32 to check the emission itself) and takes and gives values
in it; integers are i32.
"""

from .model import Emitted, emit
from .registry import EMITTERS

__all__ = ["EMITTERS", "Emitted", "emit"]
