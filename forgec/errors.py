"""The typed errors that forgec raises: each says what, where, and one thing to try.

``ForgecError`` is the common base, so a caller can catch one class. ``InternalError`` is the only one that
means a bug in forgec itself; every other class is caused by the input, the machine or the options.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "BackendError",
    "CaptureError",
    "FidelityError",
    "ForgecError",
    "InputError",
    "InternalError",
    "ModelError",
    "OptionError",
    "ParseError",
    "PlanError",
    "TargetError",
    "UnsupportedOpError",
    "VerifyError",
]


class ForgecError(Exception):
    """Base of all errors that forgec raises on purpose.

    ``what`` states the failure with its values, ``where`` the pass, IR line or source line, and ``hint`` one
    thing to try. ``exit_code`` is what the command line leaves with.
    """

    exit_code = 1

    def __init__(self, what: str, where: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(self.text())

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """The whole message, one part a line."""
        parts = [self.what]
        if self.where:
            parts.append(f"  at: {self.where}")
        if self.hint:
            parts.append(f"  try: {self.hint}")
        return "\n".join(parts)


class OptionError(ForgecError):
    """An option is unknown or has a value outside its range."""

    exit_code = 2


class ModelError(ForgecError):
    """A model cannot be found, built or loaded."""

    exit_code = 2


class CaptureError(ForgecError):
    """The model cannot be turned into a graph, by ``torch.export`` neither, or the example inputs do not
    fit it."""


class UnsupportedOpError(ForgecError):
    """The captured graph has operators that forgec cannot lower; all of them are in one message."""

    exit_code = 3


class ParseError(ForgecError):
    """IR text does not follow the grammar; ``where`` shows the line with a caret."""


class VerifyError(ForgecError):
    """A program breaks a numbered rule of the IR verifier."""


class PlanError(ForgecError):
    """A plan cannot be made, or breaks a rule of the plan checker."""


class BackendError(ForgecError):
    """A backend or a vendor's compiler failed; ``log`` is the end of what that printed."""

    exit_code = 4
    log = ""


class TargetError(ForgecError):
    """A target is unknown or not available on this machine."""

    exit_code = 5


class ArtifactError(ForgecError):
    """A ``.forge`` file is damaged, foreign, of a newer version, or cannot be written."""


class InputError(ForgecError):
    """The inputs of a run do not fit the program's signature."""

    exit_code = 2


class FidelityError(ForgecError):
    """A compiled program's numbers differ from the reference by more than its bound."""


class InternalError(ForgecError):
    """A bug in forgec: an invariant that its own code must keep was broken."""
