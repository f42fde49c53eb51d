"""Runs this folder's tests against an extension that is built with sanitizers.

``python sanitize.py address`` (AddressSanitizer and UndefinedBehaviorSanitizer) or ``python sanitize.py
thread``; more arguments go to pytest. The build, in a temporary folder or in ``--build DIR``, takes minutes.
The sanitizer's library is loaded ahead of Python, so that numpy's memory has red zones as well. Needs GCC.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from forgec.backends.cpu.native import build

HERE = Path(__file__).resolve().parent
FLAGS = {
    # AddressSanitizer finds bad accesses; UBSan's checks of every pointer make a file's build take minutes.
    "address": [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-sanitize=vptr,null,object-size,pointer-overflow,alignment",
    ],
    "thread": ["-fsanitize=thread"],
}
LIBRARIES = {"address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}
ENVIRONMENT = {
    "address": {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    "thread": {"TSAN_OPTIONS": "halt_on_error=1"},
}
PLUGIN = """import forgec.backends.cpu as cpu
cpu.__path__.insert(0, {folder!r})
"""


def _library(name: str) -> str:
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sanitizer", choices=sorted(FLAGS))
    parser.add_argument("--build", type=Path, help="folder for the build, kept")
    known, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = known.build or Path(temporary)
        build.FLAGS[:] = [flag for flag in build.FLAGS if not flag.startswith("-O")]
        build.FLAGS += ["-O1", "-g1", "-fno-omit-frame-pointer", *FLAGS[known.sanitizer]]
        build.LINK_FLAGS += FLAGS[known.sanitizer]
        build.build_into(folder)
        (folder / "sanitized.py").write_text(PLUGIN.format(folder=str(folder)))
        environment = {
            **os.environ,
            **ENVIRONMENT[known.sanitizer],
            "LD_PRELOAD": " ".join(_library(name) for name in LIBRARIES[known.sanitizer]),
            "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "OMP_NUM_THREADS": "1",
            "EVERY_ISA": "1",
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "sanitized",
            "-p",
            "no:cacheprovider",
            str(HERE),
            *rest,
        ]
        return subprocess.run(command, env=environment, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main())
