"""Chat templates: Jinja2 in a sandbox, with the settings and helpers that Hugging Face gives to templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lanner._core import ModelFileError


class _Refused(jinja2.TemplateError):
    """What a template raises by `raise_exception`."""


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; here what it encloses is plain text."""

    tags = {"generation"}  # noqa: RUF012 - declared so by Jinja2

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise _Refused(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which a model has not seen in training.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class ChatTemplate:
    """A compiled template.

    The source comes from a model file and is not trusted: it runs in Jinja2's immutable sandbox, without
    access to attributes that lead to Python. Raises ModelFileError where it is not valid Jinja.
    """

    def __init__(self, source: str) -> None:
        """Compiles `source`, the value of `tokenizer.chat_template`."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelFileError(f"tokenizer.chat_template is not a valid template: {error}") from error

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """The conversation as text.

        Raises ValueError where the template refuses the messages or cannot work with them, ModelFileError
        where it reaches out of the sandbox.
        """
        _check_messages(messages)
        try:
            return self._template.render(messages=messages, **variables)
        except SecurityError as error:
            raise ModelFileError(f"tokenizer.chat_template reaches out of the sandbox: {error}") from error
        except _Refused as error:
            raise ValueError(f"chat template refuses the messages: {error}") from error
        except Exception as error:  # whatever the template's own expressions raise on these messages
            raise ValueError(
                f"chat template fails on the messages: {type(error).__name__}: {error}"
            ) from error


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ValueError(f"chat: messages is a {type(messages).__name__}, a list of dicts was wanted")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(
                f"chat: messages[{i}] is {message!r:.80}, a dict with 'role' and 'content' was wanted"
            )
