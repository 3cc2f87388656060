"""Decorator for functions that take sampling options as keywords; names, types and docs come from ``options``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from textwrap import fill
from typing import Any, TypeVar

from undiffuse.models.options import SamplingOptions, earlier_names, option_rows
from undiffuse.observer import note
from undiffuse.wording import renamed_note

R = TypeVar("R")
#: The parameter that is replaced by all options, in the signature and in the docstring's ``Args``.
PARAMETER = "options"


def takes_options(function: Callable[..., R]) -> Callable[..., R]:
    """Replace the parameter ``options`` of ``function`` by one keyword per option; ``None`` is the model's default.

    Names of options in earlier versions are accepted too, with a ``UsageWarning`` that gives the new name.

    Raises:
        UsageError: by the decorated function, if the value of an option is invalid.
    """

    @wraps(function)
    def wrapper(*arguments: Any, **keywords: Any) -> R:
        given = {name: keywords.pop(name) for name in (*option_rows(), *earlier_names()) if name in keywords}
        for old in given.keys() & earlier_names().keys():
            note(renamed_note(old, earlier_names()[old]))
        return function(*arguments, **keywords, **{PARAMETER: SamplingOptions.of(**given)})

    wrapper.__signature__ = _expanded(inspect.signature(function))  # type: ignore[attr-defined]
    wrapper.__doc__ = _documented(function.__doc__ or "")
    wrapper.earlier_keywords = tuple(earlier_names())  # type: ignore[attr-defined]
    return wrapper


def _expanded(signature: inspect.Signature) -> inspect.Signature:
    """The signature with ``options`` replaced by one keyword per option."""
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.name != PARAMETER:
            parameters.append(parameter)
            continue
        for name, row in option_rows().items():
            parameters.append(parameter.replace(name=name, annotation=row.type | None, default=None))
    return signature.replace(parameters=parameters)


def _documented(text: str) -> str:
    """The docstring with the line of ``options`` replaced by one line per option."""
    lines = text.splitlines()
    at = next((number for number, line in enumerate(lines) if line.strip().startswith(f"{PARAMETER}:")), None)
    if at is None:
        return text
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    entries = [_wrapped(f"{name}: {row.option.help}.", indent) for name, row in option_rows().items()]
    return "\n".join([*lines[:at], *entries, *lines[at + 1 :]])


def _wrapped(text: str, indent: str) -> str:
    return fill(text, 120, initial_indent=indent, subsequent_indent=f"{indent}    ")
