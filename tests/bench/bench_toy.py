"""A service for a worker, and a clock, for tests of the harness."""

from __future__ import annotations

import os
import sys


class Toy:
    def __init__(self) -> None:
        print("a library greets the world")
        self.total = 0

    def add(self, value: int) -> int:
        print("noise in the middle")
        self.total += value
        return self.total

    def fail(self) -> None:
        raise ValueError("no luck")

    def die(self) -> None:
        print("last words", file=sys.stderr, flush=True)
        os._exit(7)

    def sleep(self) -> None:
        import time

        time.sleep(60)

    def environment(self) -> dict[str, object]:
        return {
            "threads": os.environ["OMP_NUM_THREADS"],
            "cpus": len(os.sched_getaffinity(0)),
            "extra": os.environ.get("TOY"),
            "folder": os.getcwd(),
        }
