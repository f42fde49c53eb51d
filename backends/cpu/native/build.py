"""How the extension is built: one file per instruction set, each with the flags of its own.

``setup.py`` calls :func:`extensions` and uses :class:`BuildExtension`; both only need setuptools and pybind11
and can be loaded from this file alone. ``python build.py DIR`` builds the module into a folder.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

__all__ = [
    "FLAGS",
    "ISA_FLAGS",
    "LINK_FLAGS",
    "MODULE",
    "SOURCES",
    "BuildExtension",
    "build_into",
    "extensions",
]

MODULE = "forgec.backends.cpu._native"
SOURCES = Path(__file__).resolve().parent / "src"

FLAGS = ["-std=c++17", "-O3", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"]
LINK_FLAGS = ["-pthread"]

_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"]
# Tiles are released by a destructor; kernels throw nothing, so it needs no tables for that.
_AMX = [*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16", "-fno-exceptions"]
# GCC 12 warns about its own intrinsics' deliberately undefined registers once they are inlined.
_QUIET = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]

ISA_FLAGS = {
    "kernels_portable.cpp": [],
    "kernels_avx2.cpp": _AVX2,
    "kernels_avx512.cpp": _AVX512 + _QUIET,
    "quant_portable.cpp": [],
    "quant_avx2.cpp": _AVX2,
    "quant_avx512.cpp": _AVX512 + _QUIET,
    "dot_avxvnni.cpp": [*_AVX2, "-mavxvnni"],
    "dot_avx512vnni.cpp": [*_AVX512, "-mavx512vnni", *_QUIET],
    "attention_avx512bf16.cpp": [*_AVX512, "-mavx512bf16", *_QUIET],
    "halves_amx.cpp": _AMX + _QUIET,
    "dot_amx.cpp": _AMX + _QUIET,
    "linear_amx.cpp": _AMX + _QUIET,
    "attention_amx.cpp": _AMX + _QUIET,
}
"""Additional flags by file; all other files must run on any machine of the architecture."""


def sources() -> list[str]:
    """The C++ files for this architecture, the module itself included."""
    files = sorted(path.name for path in SOURCES.glob("*.cpp"))
    if platform.machine().lower() not in ("x86_64", "amd64"):
        files = [name for name in files if not ISA_FLAGS.get(name)]
    return files


def extensions(root: Path | None = None) -> list[Extension]:
    """The extension modules to give to ``setup()``; paths relative to ``root``, the folder of setup.py."""
    import pybind11

    base = SOURCES.relative_to(root.resolve()) if root is not None else SOURCES
    return [
        Extension(
            MODULE,
            [str(base / name) for name in sources()],
            include_dirs=[str(base), pybind11.get_include()],
            depends=[str(base / path.name) for path in sorted(SOURCES.glob("*.h"))],
            extra_compile_args=FLAGS,
            extra_link_args=LINK_FLAGS,
            language="c++",
        )
    ]


class BuildExtension(build_ext):
    """``build_ext`` that adds the flags of :data:`ISA_FLAGS` to the files that they belong to, and compiles
    on all processors."""

    def build_extension(self, ext: Extension) -> None:
        from pybind11.setup_helpers import ParallelCompile

        compile_one = self.compiler._compile

        def compile_with_flags(obj: str, src: str, ext_name: str, args: list[str], *rest: Any) -> None:
            compile_one(obj, src, ext_name, [*args, *ISA_FLAGS.get(Path(src).name, [])], *rest)

        self.compiler._compile = compile_with_flags
        try:
            with ParallelCompile():
                super().build_extension(ext)
        finally:
            self.compiler._compile = compile_one


def build_into(folder: Path) -> Path:
    """Build the module as ``folder/_native.*.so`` and return its path; objects stay beside it."""
    folder = folder.resolve()
    command = BuildExtension(Distribution({"name": "forgec-native", "ext_modules": extensions()}))
    command.build_lib = str(folder / "lib")
    command.build_temp = str(folder / "objects")
    command.ensure_finalized()
    command.run()
    (built,) = command.get_outputs()
    target = folder / Path(built).name
    Path(built).replace(target)
    return target


if __name__ == "__main__":
    print(build_into(Path(sys.argv[1])))
