"""What may be shown on a terminal of texts from elsewhere. Imports nothing."""

from __future__ import annotations


def escape_unprintable(text: str) -> str:
    """A text as a terminal may have it: names and captions from elsewhere may hold commands or half characters."""
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1] for character in text
    )
