"""The side-by-side harness: forgec against the compilers it competes with, on this machine.

    python -m bench --help                       # from the repository root
    python -m bench compile --repeat 5
    python -m bench report --write docs/benchmarks.md

Every tool runs in a worker process of its own, all workers stay alive, and measurements go round-robin over
them, so that whatever disturbs the machine disturbs all tools alike. Each benchmark is one module with
``measure(...) -> data`` and ``tables(data)``; its results are one JSON file in ``results/``, and the report
renders these files. Every number says what it is: measured, counted or estimated.
"""

from .cei import attach_cei

__all__ = ["attach_cei"]
