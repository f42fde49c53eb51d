"""Code for one instruction set must not reach machines that lack it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from forgec.backends.cpu.native import build


@pytest.mark.slow
@pytest.mark.parametrize("source", sorted(name for name, flags in build.ISA_FLAGS.items() if flags))
def test_no_shared_function_is_compiled_for_one_instruction_set(source: str, tmp_path: Path) -> None:
    """The linker keeps one copy of a weak function, for everyone: all must be named after the vector type."""
    compiler, nm = shutil.which("g++"), shutil.which("nm")
    if compiler is None or nm is None or source not in build.sources():
        pytest.skip("runs on x86-64 with g++ and nm: install g++ and binutils")
    target = tmp_path / "kernels.o"
    flags = [*build.FLAGS, *build.ISA_FLAGS[source], "-Werror", "-fPIC"]
    subprocess.run([compiler, *flags, "-c", str(build.SOURCES / source), "-o", str(target)], check=True)
    listing = subprocess.run([nm, "-C", str(target)], capture_output=True, text=True, check=True).stdout
    weak = [line for line in listing.splitlines() if line[17:18] in ("W", "V", "u")]
    assert weak or source.startswith(("attention_", "dot_")), "these tiles are all local to their file"
    assert [line for line in weak if "forgec::Vec" not in line] == []
