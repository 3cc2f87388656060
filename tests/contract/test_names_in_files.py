"""Names inside files and random keys are data: they stay as they are, whatever the source calls things."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from names_in_files import GOLDEN, names

ADVICE = (
    "files and runs of before have the old name: keep it, or let a map read the old one where it is read and say so in "
    "docs/adr; what is new, or changed on purpose, is written down by: python tests/contract/names_in_files.py"
)


def lines(value: Any, before: str = "") -> Iterator[str]:
    """Each name with where it is from."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from lines(inner, f"{before}{key}: ")
    elif isinstance(value, list):
        yield from (f"{before}{one}" for one in value)
    else:
        yield f"{before}{value}"


def test_names_are_those_of_the_golden_list() -> None:
    known, found = (set(lines(one)) for one in (json.loads(GOLDEN.read_text(encoding="utf-8")), names()))
    message = [*(f"gone: {one}" for one in sorted(known - found)), *(f"new: {one}" for one in sorted(found - known))]
    assert not message, "\n".join([*message, ADVICE])
