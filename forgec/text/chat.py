"""Conversations as prompts, by the model's own template.

Templates come with models, so they run in jinja2's sandbox, which lets them reach nothing but what they are
given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import ArtifactError, InputError

__all__ = ["render"]

Message = Mapping[str, Any]


def render(template: str, messages: Sequence[Message], special: Mapping[str, str]) -> str:
    """The prompt of a conversation whose next turn is the model's.

    ``messages`` have ``role`` and ``content``, ``special`` the model's special tokens by name
    (``bos_token``).
    Raises :class:`InputError` for what the template refuses, :class:`ArtifactError` for a template that is
    broken or reaches for what it must not have.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        compiled = environment.from_string(template)
        return compiled.render(messages=list(messages), add_generation_prompt=True, **special)
    except _RefusedError as error:
        raise InputError(f"the model's chat template refuses the conversation: {error}") from error
    except SecurityError as error:
        raise ArtifactError(f"the chat template reaches for what it must not have: {error}") from error
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise ArtifactError(f"the chat template fails: {type(error).__name__}: {error}") from error


class _RefusedError(Exception):
    """Raised by a template."""


def _refuse(message: str) -> NoReturn:
    raise _RefusedError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
