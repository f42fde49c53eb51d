"""What runs in a process of its own: compile ONNX models with Qualcomm's execution provider, each in a fork.

``python process.py`` in a folder with ``tasks.json``: a list of tasks, and how many of them run at a time.
Every task has a folder, where it leaves ``result.json``: so whoever started this knows which task killed the
compiler, and no task sees what another one left in memory, on which the vendor's bytes depend. Forks, because
starting Python and the provider takes longer than the compile of a small model. It imports nothing of forgec:
a start has to be quick.

No fallback is left open: operators on ONNX Runtime's own CPU provider are an error, and so is a provider
that does not start.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

PROVIDER = "QNNExecutionProvider"
TASKS, RESULT = "tasks.json", "result.json"


def register() -> None:
    """Make the provider known to ONNX Runtime, once."""
    import onnxruntime
    import onnxruntime_qnn

    if not any(device.ep_name == PROVIDER for device in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())


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
        onnxruntime.InferenceSession(task["model"], options, enable_fallback=0)
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
        os.chdir(task["folder"])
        Path(RESULT).write_text(json.dumps(compile_one(task)))
        status = 0
    finally:
        os._exit(status)


def _reap(running: dict[int, Path]) -> None:
    pid, status = os.wait()
    folder = running.pop(pid)
    if status:
        died = {"error": None, "code": os.waitstatus_to_exitcode(status), "seconds": 0.0}
        (folder / RESULT).write_text(json.dumps(died))


def main() -> None:
    register()
    given = json.loads(Path(TASKS).read_text())
    run(given["tasks"], given["jobs"])


if __name__ == "__main__":
    main()
