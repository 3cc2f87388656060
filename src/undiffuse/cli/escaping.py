"""Escaping of untrusted text for the terminal. Imports nothing."""

from __future__ import annotations


def escape_unprintable(text: str) -> str:
    """Escape unprintable characters: names and captions may contain control sequences or lone surrogates."""
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1] for character in text
    )
