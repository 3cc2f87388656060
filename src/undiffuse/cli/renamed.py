"""Earlier names of the command line, which are understood for one more version, with a line that says the new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: earlier command → its name
COMMANDS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("encode",): ("invert",),
}
#: command → earlier option → its name
OPTIONS: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("data", "info"): {"--sheet": "--grid"},  # data
    ("study", "small-data"): {"--pictures": "--images"},  # data
}


def renamed(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line in today's names, and a line for each name that was an earlier one.

    Args:
        arguments: the words of a command line, without the program's name.
    Example:
        >>> renamed(["encode", "mnist"])
        (['invert', 'mnist'], ["'encode' is called 'invert' now; the earlier name ends with the next version"])
    """
    words, notes = list(arguments), list[str]()
    for old, new in COMMANDS.items():
        if tuple(words[: len(old)]) == old:
            words[: len(old)] = new
            notes.append(_note(" ".join(old), " ".join(new)))
    for command, options in OPTIONS.items():
        if tuple(words[: len(command)]) != command:
            continue
        end = words.index("--") if "--" in words else len(words)
        for place in range(len(command), end):
            option, equals, value = words[place].partition("=")
            if option in options:
                words[place] = f"{options[option]}{equals}{value}"
                notes.append(_note(option, options[option]))
    return words, notes


def _note(old: str, new: str) -> str:
    return f"{old!r} is called {new!r} now; the earlier name ends with the next version"
