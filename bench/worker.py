"""The worker side: ``MODULE:CLASS CPUS`` as arguments serves an object's methods over its pipes.

One JSON object per line. A request is ``{"method": ..., "arguments": {...}}``, its answer ``{"result": ...}``
or ``{"error": ..., "trace": ...}``; the end of the input ends the worker. Whatever the libraries under test
print goes to stderr, the answers have a descriptor of their own.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module
from typing import IO, Any

__all__ = ["serve"]


def serve(service: Any, requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more; an exception of a method is an answer like any other."""
    for line in requests:
        request = json.loads(line)
        method = request["method"]
        try:
            if method.startswith("_"):
                raise ValueError(f"{method!r} is not a method to call")
            answer = {"result": getattr(service, method)(**request["arguments"])}
            text = json.dumps(answer)
        except Exception as error:  # the client decides what a failure means
            text = json.dumps({"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})
        answers.write(text + "\n")
        answers.flush()


def main() -> None:
    """Entry point of the process: pin it, claim stdout, make the service, serve."""
    target, cpus = sys.argv[1:]
    os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module, name = target.split(":")
    serve(getattr(import_module(module), name)(), sys.stdin, answers)


if __name__ == "__main__":
    main()
