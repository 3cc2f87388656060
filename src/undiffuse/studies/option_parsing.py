"""Parsing of lists in the options of studies. Imports nothing heavy."""

from __future__ import annotations

from typing import Any


def sampler_words(value: Any) -> Any:
    """Split ``heun,ddim:eta=0.5`` into a list; commas within a sampler's options are kept, as are non-string values."""
    if not isinstance(value, str):
        return value
    parts: list[str] = []
    for word in filter(None, value.split(",")):
        if parts and ":" in parts[-1] and "=" in word and ":" not in word:
            parts[-1] += f",{word}"
        else:
            parts.append(word.strip())
    return parts
