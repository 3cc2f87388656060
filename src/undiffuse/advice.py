"""Error messages in the terms of the interface in use: options on the command line, keyword arguments in Python.

Messages name the options of the command line. If a function of the Python interface raises the error, they are
replaced by that function's keyword arguments: ``--overwrite`` by ``overwrite=True``. Any package may import this
module; it imports nothing from this package.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_ON_COMMAND_LINE: ContextVar[bool] = ContextVar("on_command_line", default=False)
#: Options whose keyword argument has another name.
_KEYWORDS = {"stop-after": "stop_after_seconds", "class": "class_name", "json": "out", "from": "from_image"}
#: A complete command, which is kept unchanged, or an option.
_COMMAND_OR_OPTION = re.compile(r"\bundiffuse [a-z][^;,)]*|(?<![\w-])--([a-z][a-z-]*[a-z])\b")


@contextmanager
def command_line() -> Iterator[None]:
    """Keep error messages unchanged inside this context, which the command line uses."""
    token = _ON_COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _ON_COMMAND_LINE.reset(token)


def advise_in_python(error: Exception, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Replace options by keyword arguments in an error's message, unless the command line is in use.

    Args:
        error: an error whose first argument is the message.
        parameters: parameters of the function that raises it, by name; other options are not replaced.
    """
    if not _ON_COMMAND_LINE.get() and error.args and isinstance(error.args[0], str):
        error.args = (with_keywords(error.args[0], parameters), *error.args[1:])


def with_keywords(text: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """Replace the options in ``text`` by keyword arguments.

    Args:
        text: a message, such as ``name another folder or add --overwrite``.
        parameters: parameters of the called function, by name.
    Example:
        >>> def sample(out=None, overwrite=False): ...
        >>> with_keywords("--out a is not empty; add --overwrite", inspect.signature(sample).parameters)
        'out a is not empty; add overwrite=True'
    """

    def keyword(found: re.Match[str]) -> str:
        option = found.group(1)
        name = _KEYWORDS.get(option, option.replace("-", "_")) if option is not None else ""
        if name not in parameters:
            return found.group()
        return f"{name}=True" if isinstance(parameters[name].default, bool) else name

    return _COMMAND_OR_OPTION.sub(keyword, text)
