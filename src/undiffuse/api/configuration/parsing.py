"""Parsing of command-line values: numbers, names, durations. Imports nothing heavy."""

from __future__ import annotations

import re
from typing import Any

from undiffuse.checksums import parse_json
from undiffuse.errors import UsageError


def parse_interval(option: str, text: str | None) -> tuple[float, float] | None:
    """Parse ``LO,HI`` as two log-SNRs; the first may be ``-inf`` and the second ``inf``.

    Args:
        option: name of the option, for messages.
        text: two numbers separated by a comma, or None.
    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} must be LO,HI in log-SNR, such as -3,4, got {text!r}") from None
    return low, high


def parse_duration(text: str) -> float:
    """Parse a duration such as ``90``, ``90s``, ``10m`` or ``1.5h`` into seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"--stop-after must be a time such as 90s, 10m or 1.5h, got {text!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_steps(text: str | None) -> tuple[int, ...]:
    """Parse ``10`` or ``6,8,10`` into ascending numbers; empty for None.

    Raises:
        UsageError: not whole numbers of at least 2 steps.
    """
    parts = [part.strip() for part in text.split(",")] if text is not None else []
    if not all(part.isdecimal() and int(part) >= 2 for part in parts):
        raise UsageError(f"--tune-steps must be whole numbers of at least 2 steps, such as 10 or 6,8,10, got {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def parse_counts(text: str | None) -> list[int]:
    """Parse ascending whole numbers such as ``250,500,1000``."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    counts = [int(word) if word.isdecimal() else 0 for word in words]
    if (text is not None and not counts) or min(counts, default=1) < 1 or counts != sorted(set(counts)):
        raise UsageError(f"--counts must be ascending numbers of images such as 250,500,1000, got {text!r}")
    return counts


def named_metrics(text: str | None) -> list[str]:
    """Parse comma-separated names; empty for None.

    Raises:
        UsageError: no name in the text.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if text is not None and not names:
        raise UsageError(f"--metrics names no metric, got {text!r}; leave it out for the default ones")
    return names


def read_value(text: str) -> Any:
    """Parse a value: JSON, Python's ``True``, ``False`` and ``None``, or plain text."""
    try:
        return parse_json(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)
