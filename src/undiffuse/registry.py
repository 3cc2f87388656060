"""Named rows: every process, sampler, network, source and metric is one row of a literal dict.

Rows are either the thing itself or a ``"module:attribute"`` string that is imported when it is first asked for, so
that listing names costs no import. Any room may import this module.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from undiffuse.errors import KeywordError, UsageError

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
    """In quotes where a list with commas would leave it in doubt."""
    return name if name and name == name.strip() and "," not in name else repr(name)


def known_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """A function of the front door, which answers a keyword that it does not have with the nearest one.

    What the function lists as ``earlier_keywords`` it takes as well.

    Raises:
        KeywordError: from the function that is returned.
    """
    known = [key for key in inspect.signature(function).parameters if key != "self"]

    @wraps(function)
    def called(*arguments: P.args, **keywords: P.kwargs) -> R:
        for key in keywords:
            if key not in known and key not in getattr(function, "earlier_keywords", ()):
                raise KeywordError(f"{function.__name__}() has no argument {key!r}; {nearest(key, known)}")
        return function(*arguments, **keywords)

    return called


def lookup(registry: Mapping[str, Any], name: str, kind: str) -> Any:
    """The row called ``name``, imported if it is given as ``"module:attribute"``.

    Raises:
        UsageError: no such row; the message names the nearest one and lists all.
    """
    if name not in registry:
        raise UsageError(f"unknown {kind} {name!r}; {nearest(name, registry)}")
    return resolve(registry[name])


def resolve(row: Any) -> Any:
    """Import a ``"module:attribute"`` string; anything else is returned as it is."""
    if isinstance(row, str) and ":" in row:
        module, attribute = row.split(":")
        return getattr(importlib.import_module(module), attribute)
    return row


def make(registry: Mapping[str, Any], spec: str, kind: str) -> Any:
    """What the row of ``name`` or ``name:option=value,option=value`` makes, such as ``ddim:eta=0.5``.

    An option's type is that of its default: a number, a whole number, or text.

    Raises:
        UsageError: an unknown row or option, or a value of another type; the nearest known name is given.
    """
    name, _, rest = spec.partition(":")
    factory = lookup(registry, name, kind)
    return factory(**parse_row_options(factory, rest, name, kind))


def parse_row_options(
    factory: Callable[..., Any], text: str, name: str, kind: str, read: Callable[[str, Any, str], Any] | None = None
) -> dict[str, Any]:
    """The options in ``option=value,option=value``: those parameters of ``factory`` that have a default.

    Args:
        name, kind: of the row, for messages.
        read: (text, default, what it is) -> value; by default a value of the default's type.
    Raises:
        UsageError: an unknown option, one given twice, or a value that ``read`` refuses.
    """
    parameters = inspect.signature(factory).parameters.items()
    known = {key: row.default for key, row in parameters if row.default is not row.empty}
    return parse_options(known, text, name, kind, read)


def parse_options(
    known: Mapping[str, Any], text: str, name: str, kind: str, read: Callable[[str, Any, str], Any] | None = None
) -> dict[str, Any]:
    """``parse_row_options`` by the options' names and defaults."""
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in known:
            hint = nearest(key, known) if known else "it has none"
            raise UsageError(f"{kind} {name!r} has no option {key!r}; {hint}")
        if key in options:
            raise UsageError(f"{kind} option {name}:{key} is given twice, got {text!r}; give it once")
        options[key] = (read or _typed)(value, known[key], f"{kind} option {name}:{key}")
    return options


def _typed(text: str, default: object, what: str) -> str | float:
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
