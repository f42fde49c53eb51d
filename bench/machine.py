"""What a result was measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from forgec.processors import one_per_core

__all__ = ["cpu_model", "describe", "load_average"]

_PACKAGES = ("torch", "transformers", "numpy", "openvino", "onnx", "onnxscript", "onnxruntime")
_INSTRUCTION_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile")


def describe() -> dict[str, Any]:
    """Processor, cores, memory, instruction sets, system, versions; nothing that names a host."""
    flags = set(_cpuinfo("flags").split())
    return {
        "cpu": cpu_model(),
        "cores": len(one_per_core()),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags],
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"forgec": _forgec_version(), "python": platform.python_version(), **_versions()},
    }


def cpu_model() -> str:
    """Name of the processor, with family, model and stepping where the name alone says little."""
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    numbers = [_cpuinfo(key) for key in ("cpu family", "model", "stepping")]
    return f"{name} (family {'/'.join(numbers)})" if all(numbers) else name


def load_average() -> float:
    """Processes ready to run, averaged over the last minute; over the number of cores, others disturb."""
    return round(os.getloadavg()[0], 2)


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def _forgec_version() -> str:
    from forgec.version import __version__

    return __version__


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
