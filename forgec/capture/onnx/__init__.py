"""ONNX files as models: read and checked, imported for given shapes, run as an ``nn.Module``.

Imported only when a file is one; needs the package ``onnx``.
"""

from .file import OnnxFile, load_onnx
from .model import OnnxModel
from .module import OnnxModule
from .runtime import run_onnxruntime

__all__ = ["OnnxFile", "OnnxModel", "OnnxModule", "load_onnx", "run_onnxruntime"]
