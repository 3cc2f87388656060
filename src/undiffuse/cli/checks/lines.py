"""Reads a command line by a table of the commands' arguments, because importing the parser is noticeably slow.

``command_lines.json`` is generated from the parser by ``tools/make_cli_reference.py``, and a test compares the two. All
other cases are left to the parser: help, completion, a value of the wrong type, a missing argument.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from undiffuse.errors import UsageError
from undiffuse.registry import nearest

_TABLE = Path(__file__).with_name("command_lines.json")
_TYPES: dict[str, Callable[[str], Any]] = {"int": int, "float": float}


class Line(NamedTuple):
    """The full name of a command, such as ``study sweep``, and its arguments by parameter name."""

    command: str
    values: dict[str, Any]


class _UnsupportedError(Exception):
    """A command line that has to be left to the parser."""


def read(arguments: Sequence[str]) -> Line | None:
    """Read a command line; None if it has to be left to the parser.

    Raises:
        UsageError: an unknown command or option.
    """
    try:
        command, words = _command(arguments)
        return Line(command, _values(command, iter(words)))
    except _UnsupportedError:
        return None


@cache
def _table() -> dict[str, Any]:
    """Commands by their full name; the empty name is the program itself."""
    found: dict[str, Any] = json.loads(_TABLE.read_bytes())
    return found


def _command(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command, and the words after it."""
    name, row = "", _table()[""]
    for number, word in enumerate(arguments):
        if word.startswith("-"):
            _option(name, row, word)
            raise _UnsupportedError
        if word not in row["commands"]:
            raise unknown_command_error(name, word)
        name = f"{name} {word}".strip()
        row = _table()[name]
        if not row["commands"]:
            return name, arguments[number + 1 :]
    raise _UnsupportedError


def _values(command: str, words: Iterator[str]) -> dict[str, Any]:
    row, positional, values = _table()[command], list[str](), dict[str, Any]()
    for word in words:
        if word == "--":
            positional += words
        elif word.startswith("-") and word != "-":
            _put_option(_option(command, row, word), word, words, values)
        else:
            positional.append(word)
    _put_arguments(row["arguments"], positional, values)
    if not values.keys() >= set(row["required"]):
        raise _UnsupportedError
    return values


def _option(command: str, row: dict[str, Any], word: str) -> dict[str, Any]:
    """The table entry of an option; a short option may be joined with its value."""
    key = word.partition("=")[0] if word.startswith("--") else word[:2]
    if key not in row["options"]:
        raise unknown_option_error(command, key)
    found: dict[str, Any] = row["options"][key]
    return found


def _put_option(option: dict[str, Any], word: str, words: Iterator[str], values: dict[str, Any]) -> None:
    _, joined, value = word.partition("=") if word.startswith("--") else ("", word[2:], word[2:])
    if option["takes"] == "help" or (option["takes"] == "nothing" and joined):
        raise _UnsupportedError
    if option["takes"] == "nothing":
        values[option["name"]] = True
        return
    value = _converted(value if joined else next(words, None), option["type"])
    values[option["name"]] = [*values.get(option["name"], []), value] if option["takes"] == "many" else value


def _put_arguments(known: Sequence[dict[str, Any]], positional: list[str], values: dict[str, Any]) -> None:
    for argument in known:
        if not positional:
            return
        num_taken = len(positional) if argument["takes"] == "many" else 1
        typed = [_converted(word, argument["type"]) for word in positional[:num_taken]]
        positional = positional[num_taken:]
        values[argument["name"]] = typed if argument["takes"] == "many" else typed[0]
    if positional:
        raise _UnsupportedError


def _converted(word: str | None, kind: str) -> Any:
    if word is None:
        raise _UnsupportedError
    try:
        return _TYPES.get(kind, str)(word)
    except ValueError:
        raise _UnsupportedError from None


def unknown_command_error(group: str, word: str) -> UsageError:
    """The error for an unknown command of a group; the empty name is the program itself."""
    program = f"undiffuse {group}".strip()
    return UsageError(f"{program} has no command {word!r}; {nearest(word, _table()[group]['commands'])}")


def unknown_option_error(command: str, option: str) -> UsageError:
    """The error for an unknown option of a command."""
    program = f"undiffuse {command}".strip()
    hint = _as_key(command, option) or nearest(option, [word for word in _options(command) if word.startswith("--")])
    return UsageError(f"{program} has no option {option!r}; {hint}; see '{program} --help'")


def _options(command: str) -> list[str]:
    return list(_table()[command]["options"])


def _as_key(command: str, option: str) -> str:
    """A hint for a configuration key that was written as an option; empty if it is not a key."""
    key = option.lstrip("-").replace("-", "_")
    if command not in ("train", "distill") or not key:
        return ""
    from undiffuse.cli.checks.names import is_key

    return f"configuration keys are given without dashes: {key}=VALUE" if is_key(key) else ""
