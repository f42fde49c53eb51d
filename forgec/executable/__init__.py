"""The executable: the ``.forge`` file, its loader, and the run. Imports no PyTorch."""

from .archive import Info
from .executable import Executable, SelfTest, load, sampled
from .selftest import SelfTestResult, run_selftest

__all__ = ["Executable", "Info", "SelfTest", "SelfTestResult", "load", "run_selftest", "sampled"]
