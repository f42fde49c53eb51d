"""The client side of a worker process: start it, call its methods, end it.

All workers get the same processors and the same number of threads: by affinity, which every thread pool
respects, and by the variables that the usual libraries read. Each has a folder for temporary files, in
memory where the system has such a place, which goes when the worker ends.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from forgec.processors import allowed, one_per_core

__all__ = ["Worker", "WorkerError"]

_MEMORY = Path("/dev/shm")
_ROOM = 8 << 30
"""Free bytes that a folder in memory must have, for models written as files."""

_TAIL_LINES = 12
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TORCHINDUCTOR_COMPILE_THREADS",
)


class WorkerError(Exception):
    """A call failed, or the worker ended; the text has the reason and the end of what it printed."""


class Worker:
    """A process that serves an instance of the class ``service``, which a module of its own name has.

    ``variables`` are added to its environment. Use it as a context manager, or call :meth:`close`.
    """

    def __init__(self, service: type, threads: int, variables: Mapping[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(
            prefix="bench-", dir=_MEMORY if _roomy(_MEMORY) else None, ignore_cleanup_errors=True
        )
        self.folder = Path(self._folder.name)
        self._log = self.folder / "stderr.txt"
        cores = one_per_core()
        cpus = [*cores, *(cpu for cpu in allowed() if cpu not in cores)][:threads]
        environment = {
            **os.environ,
            **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
            "PYTHONSAFEPATH": "1",
            "TMPDIR": str(self.folder),
            **(variables or {}),
        }
        worker, served = f"{__package__}.worker", f"{service.__module__}:{service.__qualname__}"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", worker, served, ",".join(map(str, cpus))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=self.folder,
                env=environment,
            )

    def call(self, method: str, *, timeout_s: float = 3600, **arguments: Any) -> Any:
        """What the method returns, in JSON's types.

        :class:`WorkerError` if it raises, takes longer than ``timeout_s``, or the process ends.
        """
        line = json.dumps({"method": method, "arguments": arguments}) + "\n"
        late = threading.Timer(timeout_s, self._process.kill)
        late.start()
        try:
            self._stdin.write(line)
            self._stdin.flush()
            text = self._stdout.readline()
        except BrokenPipeError:
            text = ""
        finally:
            late.cancel()
        if not text:
            code = self._process.wait()
            raise WorkerError(f"the worker ended with {code} in {method}\n{self._tail()}")
        answer = json.loads(text)
        if "error" in answer:
            raise WorkerError(f"{method}: {answer['error']}\n{answer['trace']}")
        return answer["result"]

    def close(self) -> None:
        """End the process and remove its files."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])


def _roomy(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= _ROOM
