"""Text formatting shared by all packages: counts with units, truncated lists, and shell commands.

Any package may import this module; it imports nothing from this package.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

#: Names listed in a line before the rest is only counted.
MAX_NAMES = 3

_PLAIN = re.compile(r"[\w@%+:,./=~-]+", re.ASCII)


def count_noun(count: int, noun: str = "image") -> str:
    """``1 image``, ``1,200 images``, ``2 classes``, ``3 copies``."""
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a regular English noun; "epoch" gets an s, because its ch is pronounced k."""
    if re.search(r"(s|x|z|(?<!epo)ch|sh)$", noun):
        return f"{noun}es"
    return re.sub(r"(?<![aeiou])y$", "ie", noun) + "s"


def format_names(names: Iterable[object], limit: int = MAX_NAMES) -> str:
    """The first names and the number of the others: ``a, b, c and 4 more``."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def renamed_note(old: str, new: str) -> str:
    """The note for a deprecated name that is still accepted.

    Args:
        old: deprecated name.
        new: current name.
    """
    return f"{old!r} was renamed to {new!r}; the old name ends with the next version"


def command(*arguments: object) -> str:
    """A command line of ``undiffuse`` with these arguments, quoted for a shell where necessary.

    Placeholders in capitals, such as ``FOLDER``, are treated like any other argument.
    """
    return " ".join(["undiffuse", *(quoted(argument) for argument in arguments)])


def quoted(word: object) -> str:
    """One argument, quoted for a shell where necessary; a leading ``~`` is left for the shell to expand."""
    text = str(word)
    return text if _PLAIN.fullmatch(text) else shlex.quote(text)


class Table(NamedTuple):
    """Results as a table: a title, the column names, and the cells of each row as text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
