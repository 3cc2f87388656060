"""Words that every room says alike: counts of things, long lists, and commands that a shell takes as they are printed.

Any room may import this module; it imports nothing of ours.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

#: Things named one by one in a line.
NAMED = 3

_PLAIN = re.compile(r"[\w@%+:,./=~-]+", re.ASCII)


def counted(count: int, noun: str = "image") -> str:
    """``1 image``, ``1,200 images``, ``2 classes``, ``3 copies``."""
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of an English noun that forms it by the rule; the ch of an epoch is a k."""
    if re.search(r"(s|x|z|(?<!epo)ch|sh)$", noun):
        return f"{noun}es"
    return re.sub(r"(?<![aeiou])y$", "ie", noun) + "s"


def format_names(names: Iterable[object], named: int = NAMED) -> str:
    """``a, b, c and 4 more``."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - named} more" if len(listed) > named else ""
    return ", ".join(listed[:named]) + more


def command(*words: object) -> str:
    """``undiffuse`` with these words, each as a shell needs it: a folder with a blank in its name stays one word.

    Words in capitals that stand for something, such as ``FOLDER``, are words like any other.
    """
    return " ".join(["undiffuse", *(quoted(word) for word in words)])


def quoted(word: object) -> str:
    """One word as a shell needs it; a leading ``~`` is left for the shell to resolve."""
    text = str(word)
    return text if _PLAIN.fullmatch(text) else shlex.quote(text)


class Table(NamedTuple):
    """Results to be shown as a table: a title, the names of the columns, and a line of texts a row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
