"""The tools to compare, by name: one file each. To add one, add its file and its line below."""

from __future__ import annotations

from importlib import import_module

from .base import Compiled, Stages, Tool

__all__ = ["BASELINES", "COMPILERS", "INT8", "YARDSTICK", "Compiled", "Stages", "Tool", "get", "names"]

_TOOLS = {
    "forgec": "forgec_tool:ForgecTool",
    "forgec, unchecked": "forgec_tool:UncheckedForgecTool",
    "forgec-int8": "forgec_tool:Int8ForgecTool",
    "eager": "eager:EagerTool",
    "openvino": "openvino_tool:OpenVinoTool",
    "onnxruntime": "onnxruntime_tool:OnnxRuntimeTool",
    "torch.compile": "torch_compile:TorchCompileTool",
    "openvino-int8": "openvino_tool:OpenVinoInt8Tool",
    "onnxruntime-int8": "onnxruntime_tool:OnnxRuntimeInt8Tool",
    "multiply-adds": "multiply_adds:MultiplyAddsTool",
}
COMPILERS = ("forgec", "forgec, unchecked", "openvino", "onnxruntime")
"""Tools whose compile time is compared."""

BASELINES = ("eager", "openvino", "onnxruntime", "torch.compile")
"""Tools whose latency forgec's is compared with."""

INT8 = ("forgec-int8", "forgec", "openvino-int8", "onnxruntime-int8")
"""forgec's and the peers' own int8, and forgec in f32."""

YARDSTICK = "multiply-adds"
"""No tool: the arithmetic of f32 alone."""


def names() -> tuple[str, ...]:
    """Names of all tools, forgec first."""
    return tuple(_TOOLS)


def get(name: str) -> Tool:
    """A new tool of that name; ``KeyError`` if there is none. Imports what the tool needs."""
    module, cls = _TOOLS[name].split(":")
    tool: Tool = getattr(import_module(f".{module}", __name__), cls)()
    return tool
