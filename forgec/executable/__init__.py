"""The executable: the ``.forge`` file, its loader, and the run. Imports no PyTorch."""

from .archive import Info
from .buckets import Buckets, Dim
from .executable import Executable
from .programs import Programs, load_programs
from .samples import SelfTest, sampled
from .selftest import SelfTestResult, run_selftest
from .stored import load

__all__ = [
    "Buckets",
    "Dim",
    "Executable",
    "Info",
    "Programs",
    "SelfTest",
    "SelfTestResult",
    "load",
    "load_programs",
    "run_selftest",
    "sampled",
]
