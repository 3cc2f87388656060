"""A command line, read by a table of what the commands take: before the parser, whose import alone would be noticed.

``command_lines.json`` is written from the parser's own tree by ``tools/make_cli_reference.py``, and a test compares the
two. What is not plain by it is left to the parser: help, completion, a value that is none, something missing.
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
    """A command by its full name, ``study sweep``, and what it was given, by the names of its parameters."""

    command: str
    values: dict[str, Any]


class _UnreadError(Exception):
    """The parser has the word."""


def read(arguments: Sequence[str]) -> Line | None:
    """What a command line says; None where the parser has the word.

    Raises:
        UsageError: a command or an option that there is not.
    """
    try:
        command, words = _command(arguments)
        return Line(command, _values(command, iter(words)))
    except _UnreadError:
        return None


@cache
def _table() -> dict[str, Any]:
    """Commands by their full name; the program itself has none."""
    found: dict[str, Any] = json.loads(_TABLE.read_bytes())
    return found


def _command(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command that is named, and the words after it."""
    name, row = "", _table()[""]
    for number, word in enumerate(arguments):
        if word.startswith("-"):
            _option(name, row, word)
            raise _UnreadError
        if word not in row["commands"]:
            raise no_command(name, word)
        name = f"{name} {word}".strip()
        row = _table()[name]
        if not row["commands"]:
            return name, arguments[number + 1 :]
    raise _UnreadError


def _values(command: str, words: Iterator[str]) -> dict[str, Any]:
    row, free, values = _table()[command], list[str](), dict[str, Any]()
    for word in words:
        if word == "--":
            free += words
        elif word.startswith("-") and word != "-":
            _put_option(_option(command, row, word), word, words, values)
        else:
            free.append(word)
    _put_arguments(row["arguments"], free, values)
    if not values.keys() >= set(row["required"]):
        raise _UnreadError
    return values


def _option(command: str, row: dict[str, Any], word: str) -> dict[str, Any]:
    """What is known of an option; a short one may be written together with its value."""
    key = word.partition("=")[0] if word.startswith("--") else word[:2]
    if key not in row["options"]:
        raise no_option(command, key)
    found: dict[str, Any] = row["options"][key]
    return found


def _put_option(option: dict[str, Any], word: str, words: Iterator[str], values: dict[str, Any]) -> None:
    _, joined, value = word.partition("=") if word.startswith("--") else ("", word[2:], word[2:])
    if option["takes"] == "help" or (option["takes"] == "nothing" and joined):
        raise _UnreadError
    if option["takes"] == "nothing":
        values[option["name"]] = True
        return
    value = _typed(value if joined else next(words, None), option["type"])
    values[option["name"]] = [*values.get(option["name"], []), value] if option["takes"] == "many" else value


def _put_arguments(known: Sequence[dict[str, Any]], free: list[str], values: dict[str, Any]) -> None:
    for argument in known:
        if not free:
            return
        taken, free = (free, []) if argument["takes"] == "many" else (free[:1], free[1:])
        typed = [_typed(word, argument["type"]) for word in taken]
        values[argument["name"]] = typed if argument["takes"] == "many" else typed[0]
    if free:
        raise _UnreadError


def _typed(word: str | None, kind: str) -> Any:
    if word is None:
        raise _UnreadError
    try:
        return _TYPES.get(kind, str)(word)
    except ValueError:
        raise _UnreadError from None


def no_command(group: str, word: str) -> UsageError:
    """``word`` is no command of a group; of the program itself where that has no name."""
    program = f"undiffuse {group}".strip()
    return UsageError(f"{program} has no command {word!r}; {nearest(word, _table()[group]['commands'])}")


def no_option(command: str, option: str) -> UsageError:
    """A command has no such option."""
    program = f"undiffuse {command}".strip()
    hint = _as_key(command, option) or nearest(option, [word for word in _options(command) if word.startswith("--")])
    return UsageError(f"{program} has no option {option!r}; {hint}; see '{program} --help'")


def _options(command: str) -> list[str]:
    return list(_table()[command]["options"])


def _as_key(command: str, option: str) -> str:
    """What to say of a key of the configuration that was written as an option."""
    key = option.lstrip("-").replace("-", "_")
    if command not in ("train", "distill") or not key:
        return ""
    from undiffuse.cli.checks.names import is_key

    return f"a key of the configuration is said without dashes: {key}=VALUE" if is_key(key) else ""
