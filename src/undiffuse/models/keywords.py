"""Functions that take the options of sampling as keywords, named, typed and documented by ``options`` alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from textwrap import fill
from typing import Any, TypeVar

from undiffuse.models.options import SamplingOptions, earlier_names, option_rows
from undiffuse.observer import note

R = TypeVar("R")
#: The parameter that stands for all of them, in the signature and in the docstring's ``Args``.
PARAMETER = "options"


def takes_options(function: Callable[..., R]) -> Callable[..., R]:
    """``function`` whose parameter ``options`` is given as one keyword an option; ``None`` is the model's own.

    An option's name of earlier versions is a keyword too, which says the name of now in a ``UsageWarning``.

    Raises:
        UsageError: from the function that is returned, for a value that an option cannot have.
    """

    @wraps(function)
    def called(*arguments: Any, **keywords: Any) -> R:
        given = {name: keywords.pop(name) for name in (*option_rows(), *earlier_names()) if name in keywords}
        for old in given.keys() & earlier_names().keys():
            note(f"the option {old} is called {earlier_names()[old]} now")
        return function(*arguments, **keywords, **{PARAMETER: SamplingOptions.of(**given)})

    called.__signature__ = _expanded(inspect.signature(function))  # type: ignore[attr-defined]
    called.__doc__ = _documented(function.__doc__ or "")
    called.earlier_keywords = tuple(earlier_names())  # type: ignore[attr-defined]
    return called


def _expanded(signature: inspect.Signature) -> inspect.Signature:
    """The signature with a keyword for each option in the place of all."""
    found = []
    for parameter in signature.parameters.values():
        if parameter.name != PARAMETER:
            found.append(parameter)
            continue
        for name, row in option_rows().items():
            found.append(parameter.replace(name=name, annotation=row.type | None, default=None))
    return signature.replace(parameters=found)


def _documented(text: str) -> str:
    """The docstring with a line an option in the place of all."""
    lines = text.splitlines()
    at = next((number for number, line in enumerate(lines) if line.strip().startswith(f"{PARAMETER}:")), None)
    if at is None:
        return text
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    said = [_wrapped(f"{name}: {row.option.help}.", indent) for name, row in option_rows().items()]
    return "\n".join([*lines[:at], *said, *lines[at + 1 :]])


def _wrapped(text: str, indent: str) -> str:
    return fill(text, 120, initial_indent=indent, subsequent_indent=f"{indent}    ")
