"""Registries: every process, sampler, network, source and metric is one row of a literal dict.

A row is either the object itself or a ``"module:attribute"`` string that is imported on first use, so that listing
names imports nothing. Any package may import this module.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from undiffuse.advice import advise_in_python
from undiffuse.errors import KeywordError, UndiffuseError, UsageError

P = ParamSpec("P")
R = TypeVar("R")


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint such as ``did you mean 'ddim'? known: ...`` for an unknown name."""
    known = sorted(names)
    folded = {row.casefold(): row for row in reversed(known)}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    return f"{hint}known: {', '.join(map(_as_listed, known))}"


def _as_listed(name: str) -> str:
    """The name, in quotes if it would be ambiguous in a comma-separated list."""
    return name if name and name == name.strip() and "," not in name else repr(name)


def known_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of public functions: for an unknown keyword argument, the error suggests the closest one.

    Keywords in the attribute ``earlier_keywords`` of the function are accepted as well.
    Advice in errors names keyword arguments instead of options, see ``undiffuse.advice``.

    Args:
        function: to decorate.
    Raises:
        KeywordError: by the decorated function, for an unknown keyword argument.
    """
    parameters = inspect.signature(function).parameters
    known = [key for key in parameters if key != "self"]

    @wraps(function)
    def wrapper(*arguments: P.args, **keywords: P.kwargs) -> R:
        for key in keywords:
            if key not in known and key not in getattr(function, "earlier_keywords", ()):
                raise KeywordError(f"{function.__name__}() has no argument {key!r}; {nearest(key, known)}")
        try:
            return function(*arguments, **keywords)
        except UndiffuseError as error:
            advise_in_python(error, parameters)
            raise

    return wrapper


def lookup(registry: Mapping[str, Any], name: str, kind: str) -> Any:
    """The row ``name``, imported if it is a ``"module:attribute"`` string.

    Raises:
        UsageError: no such row; the message suggests the closest name and lists all.
    """
    if name not in registry:
        raise UsageError(f"unknown {kind} {name!r}; {nearest(name, registry)}")
    return resolve(registry[name])


def resolve(row: Any) -> Any:
    """Import a ``"module:attribute"`` string; any other object is returned unchanged."""
    if isinstance(row, str) and ":" in row:
        module, attribute = row.split(":")
        return getattr(importlib.import_module(module), attribute)
    return row


def make(registry: Mapping[str, Any], spec: str, kind: str) -> Any:
    """Create an object from ``name`` or ``name:option=value,option=value``, such as ``ddim:eta=0.5``.

    The type of an option is that of its default: float, int or str.

    Raises:
        UsageError: an unknown row or option, or a value of another type; the message suggests the closest name.
    """
    name, _, rest = spec.partition(":")
    factory = lookup(registry, name, kind)
    return factory(**parse_row_options(factory, rest, name, kind))


def parse_row_options(
    factory: Callable[..., Any], text: str, name: str, kind: str, read: Callable[[str, Any, str], Any] | None = None
) -> dict[str, Any]:
    """Parse ``option=value,option=value``; the options are the parameters of ``factory`` with a default.

    Args:
        name, kind: name and kind of the row, for messages.
        read: parses a value, (text, default, description) -> value; by default, to the type of the default.
    Raises:
        UsageError: an unknown or repeated option, or a value that ``read`` rejects.
    """
    parameters = inspect.signature(factory).parameters.items()
    known = {key: row.default for key, row in parameters if row.default is not row.empty}
    return parse_options(known, text, name, kind, read)


def parse_options(
    known: Mapping[str, Any], text: str, name: str, kind: str, read: Callable[[str, Any, str], Any] | None = None
) -> dict[str, Any]:
    """``parse_row_options`` with the options given as a mapping from names to defaults."""
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in known:
            hint = nearest(key, known) if known else "it has none"
            raise UsageError(f"{kind} {name!r} has no option {key!r}; {hint}")
        if key in options:
            raise UsageError(f"{kind} option {name}:{key} is given twice, got {text!r}; give it once")
        options[key] = (read or _parse_value)(value, known[key], f"{kind} option {name}:{key}")
    return options


def _parse_value(text: str, default: object, what: str) -> str | float:
    if not isinstance(default, int | float):
        return text
    try:
        number = float(text)
    except ValueError:
        raise UsageError(f"{what} must be a number, got {text!r}") from None
    if isinstance(default, float):
        return number
    if not number.is_integer():
        raise UsageError(f"{what} must be a whole number, got {text!r}")
    return int(number)
