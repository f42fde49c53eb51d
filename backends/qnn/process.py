"""What runs in a process of its own: compile ONNX models with Qualcomm's execution provider, each in a fork.

``python process.py`` in a folder with ``tasks.json``: a list of tasks, and how many of them run at a time.
Every task has a folder, where it leaves ``result.json``: so whoever started this knows which task killed the
compiler, and no task sees what another one left in memory, on which the vendor's bytes depend. Forks, because
starting Python, the provider and the compiler's library takes longer than the compile of a small model. It
imports nothing of forgec: a start has to be quick. It ends with whoever started it, forks and all.

No fallback is left open: operators on ONNX Runtime's own CPU provider are an error, and so is a provider
that does not start.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import time
import traceback
from pathlib import Path
from typing import Any

PROVIDER = "QNNExecutionProvider"
TASKS, RESULT = "tasks.json", "result.json"

_PR_SET_PDEATHSIG = 1

_sessions: list[Any] = []
"""What this process compiled: it ends with them, which takes less time than taking them down."""


def register() -> None:
    """Make the provider known to ONNX Runtime, once."""
    import onnxruntime
    import onnxruntime_qnn

    if not any(device.ep_name == PROVIDER for device in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())


def load() -> None:
    """What every task needs, once for all forks. The compiler's library has some 340,000 relocations and a
    thousand constructors."""
    import onnxruntime_qnn

    register()
    ctypes.CDLL(onnxruntime_qnn.get_qnn_htp_path())


def session_options(soc: int | None, provider: dict[str, str], entries: dict[str, str]) -> Any:
    """Options of a session that runs on HTP as a whole or not at all.

    ``soc`` is the chip to compile for or to emulate; None is the one that this runs on.
    """
    import onnxruntime
    import onnxruntime_qnn

    register()
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    npu = onnxruntime.OrtHardwareDeviceType.NPU
    devices.sort(key=lambda device: device.device.type != npu)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1  # nothing runs on ONNX Runtime's own threads
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    given = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "htp_performance_mode": "burst", **provider}
    if soc is not None:
        given["soc_model"] = str(soc)
    options.add_provider_for_devices(devices[:1], given)
    return options


def compile_one(task: dict[str, Any]) -> dict[str, Any]:
    """Compile ``task["model"]``; ``context`` is the path to keep the result at, or null."""
    import onnxruntime

    # the vendor's reasons for what it refuses come at the most talkative level only
    onnxruntime.set_default_logger_severity(0 if task.get("reasons") else 3)
    entries = {}
    if task["context"]:
        entries = {
            "ep.context_enable": "1",
            "ep.context_embed_mode": "0",
            "ep.context_file_path": task["context"],
        }
    start = time.perf_counter()
    try:
        options = session_options(task["soc"], task["provider"], entries)
        _sessions.append(onnxruntime.InferenceSession(task["model"], options, enable_fallback=0))
    except Exception as error:  # whatever the vendor raises is the answer
        return {"error": str(error), "seconds": time.perf_counter() - start}
    return {"error": "", "seconds": time.perf_counter() - start}


def run(tasks: list[dict[str, Any]], jobs: int) -> None:
    """Every task in a fork of this process, ``jobs`` at a time. The error of one that dies is null."""
    running: dict[int, Path] = {}
    for task in tasks:
        if len(running) == jobs:
            _reap(running)
        running[_start(task)] = Path(task["folder"])
    while running:
        _reap(running)


def _start(task: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        _end_with_parent()
        os.chdir(task["folder"])
        _write(Path(RESULT), compile_one(task))
        status = 0
    except BaseException:  # to the log: this is a fork, which nobody else's handler may see
        traceback.print_exc()
    finally:
        os._exit(status)


def _reap(running: dict[int, Path]) -> None:
    pid, status = os.wait()
    folder = running.pop(pid)
    if status:
        died = {"error": None, "code": os.waitstatus_to_exitcode(status), "seconds": 0.0}
        _write(folder / RESULT, died)


def _write(path: Path, result: dict[str, Any]) -> None:
    """Whole or not at all, whenever this is ended."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.replace(path)


def _end_with_parent() -> None:
    """A process that is killed cannot end what it started; Linux does it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    gc.disable()
    _end_with_parent()
    load()
    given = json.loads(Path(TASKS).read_text())
    run(given["tasks"], given["jobs"])


if __name__ == "__main__":
    main()
    os._exit(0)  # what is loaded is not taken down
