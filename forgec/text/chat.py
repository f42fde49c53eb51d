"""Conversations as prompts, by the model's own template.

Templates come with models, so they run in jinja2's sandbox, which lets them reach nothing but what they are
given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import ArtifactError, InputError

__all__ = ["broken", "render"]

Message = Mapping[str, Any]
_LARGEST = 1 << 24
"""Characters of a prompt at most: more than any context holds, and no trouble for the memory."""


def render(template: str, messages: Sequence[Message], special: Mapping[str, str]) -> str:
    """The prompt of a conversation whose next turn is the model's.

    ``messages`` have ``role`` and ``content``, ``special`` the model's special tokens by name
    (``bos_token``).
    Raises :class:`InputError` for what is no conversation, what the template refuses and a prompt of more
    than 16 million characters, :class:`ArtifactError` for a template that is broken or reaches for what it
    must not have.
    """
    given = {
        **special,
        "messages": _conversation(messages),
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
    }
    parts, size = [], 0
    try:
        for part in _compiled(template).generate(given):
            parts.append(part)
            size += len(part)
            if size > _LARGEST:
                raise InputError(
                    f"the conversation becomes a prompt of more than {_LARGEST} characters",
                    hint="shorten it; if it is short, the model's chat template is at fault",
                )
    except InputError:
        raise
    except SecurityError as error:
        raise ArtifactError(f"the chat template reaches for what it must not have: {error}") from error
    except Exception as error:  # a template can divide by zero, call itself, fill the memory
        raise ArtifactError(f"the chat template fails: {type(error).__name__}: {error}") from error
    return "".join(parts)


def broken(template: str) -> str | None:
    """Why a template can render no conversation at all; None if it compiles."""
    try:
        _compiled(template)
    except Exception as error:  # a template can be nested too deeply for the compiler
        line = getattr(error, "lineno", None)
        return f"{error}" if line is None else f"line {line}: {error}"
    return None


def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _conversation(messages: object) -> list[dict[str, Any]]:
    """Messages as a template takes them. Those that call tools may have no content."""
    example = 'messages are like [{"role": "user", "content": "Hello"}]'
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise InputError(f"the conversation is {messages!r:.60}, which is no list of messages", hint=example)
    found: list[dict[str, Any]] = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise InputError(f"message {len(found)} is {message!r:.60}, which is no dict", hint=example)
        if not isinstance(message.get("role"), str):
            raise InputError(
                f"message {len(found)} has the role {message.get('role')!r:.60}, which is no text",
                hint=example,
            )
        content = message.get("content")
        fits = isinstance(content, str | Sequence | Mapping) and not isinstance(content, bytes)
        if not fits and not (content is None and message.get("tool_calls")):
            raise InputError(
                f"message {len(found)} has the content {content!r:.60}, which is no text and no parts of one",
                hint=example,
            )
        found.append(dict(message))
    return found


class _Generation(Extension):
    """``{% generation %}``, by which templates mark the model's turns for training: its content."""

    tags = {"generation"}  # noqa: RUF012 (so it is in jinja2)

    def parse(self, parser: Parser) -> nodes.Node:
        """A call of the block, so that it is a scope as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Callable[[], str]) -> str:
        return caller()


def _refuse(message: str) -> NoReturn:
    raise InputError(f"the model's chat template refuses the conversation: {message}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
