"""The counterpart of ``driver.c`` where OpenVINO's own NPU compiler library is installed.

``python -m forgec.backends.openvino.native_driver DEVICE JOBS [KEY=VALUE ...]``: same list of jobs, same
lines printed. It runs in a process of its own, as the compiler may die, and ends with its input as that does.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

__all__ = ["main"]


def main(words: list[str]) -> int:
    import openvino as ov

    Thread(target=_end_with_input, daemon=True).start()
    device, jobs, *properties = words
    core = ov.Core()
    config = dict(text.split("=", 1) for text in properties)
    folders = [Path(line).absolute() for line in Path(jobs).read_text().splitlines() if line]
    failed = False
    for index, folder in enumerate(folders):
        try:
            (folder / "taken").mkdir()
        except FileExistsError:
            continue  # another process has it
        print(f"@begin {index}", flush=True)
        start = time.perf_counter()
        os.chdir(folder)
        try:
            compiled = core.compile_model(core.read_model("model.xml"), device, config)
            Path("model.blob").write_bytes(compiled.export_model())
        except RuntimeError as error:
            failed = True
            print(f"@failed {index} compile\n{error}\n@end", flush=True)
        else:
            print(f"@done {index} {time.perf_counter() - start:.3f}", flush=True)
    return int(failed)


def _end_with_input() -> None:
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
