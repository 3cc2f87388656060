"""Deprecated names of commands and options: accepted until the next version, with a note about the new name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from undiffuse.wording import renamed_note

#: deprecated command → current command
COMMANDS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("encode",): ("invert",),
}
#: command → deprecated option → current option
OPTIONS: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("data", "info"): {"--sheet": "--grid"},  # data
    ("study", "small-data"): {"--pictures": "--images"},  # data
}


def renamed(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Replace deprecated names in a command line; returns the new one and a note for each replacement.

    Args:
        arguments: a command line without the program's name.
    Example:
        >>> renamed(["encode", "mnist"])
        (['invert', 'mnist'], ["'encode' was renamed to 'invert'; the old name ends with the next version"])
    """
    words, notes = list(arguments), list[str]()
    for old, new in COMMANDS.items():
        if tuple(words[: len(old)]) == old:
            words[: len(old)] = new
            notes.append(renamed_note(" ".join(old), " ".join(new)))
    for command, options in OPTIONS.items():
        if tuple(words[: len(command)]) != command:
            continue
        end = words.index("--") if "--" in words else len(words)
        for index in range(len(command), end):
            option, equals, value = words[index].partition("=")
            if option in options:
                words[index] = f"{options[option]}{equals}{value}"
                notes.append(renamed_note(option, options[option]))
    return words, notes
