"""Alternatives in prompts: ``a {red|blue} circle`` stands for two prompts."""

from __future__ import annotations

import re
from itertools import product
from math import prod

from undiffuse.errors import UsageError

_PARTS = re.compile(r"(\\.|\{[^{}]*\|[^{}]*\})", re.DOTALL)
_STRAY = re.compile(r"\{[^{}]*\|")
#: Largest number of prompts that one text stands for.
MOST_PROMPTS = 10_000


def expand(template: str) -> list[str]:
    """The prompts that a text with alternatives stands for; the last alternatives vary fastest.

    Braces without a bar, and characters after a backslash, are parts of the text.

    Args:
        template: such as ``a {small |}{red|blue} circle``.
    Raises:
        UsageError: alternatives without an end, nested ones, or too many prompts.
    Example:
        >>> expand("a {red|blue} circle")
        ['a red circle', 'a blue circle']
    """
    parts = _PARTS.split(template)
    choices = [_choices(part) for part in parts]
    if any(_STRAY.search(part) for part in parts[::2]):
        raise UsageError(f"alternatives without an end in {template!r}; write {{red|blue}}, and not one in another")
    count = prod(map(len, choices))
    if count > MOST_PROMPTS:
        raise UsageError(f"{template!r} stands for {count:,} prompts; use at most {MOST_PROMPTS:,}")
    return ["".join(chosen) for chosen in product(*choices)]


def escape(text: str) -> str:
    """The text with a backslash before each brace and bar, so that ``expand`` returns it unchanged.

    Args:
        text: a prompt without alternatives.
    """
    return re.sub(r"([{}|])", r"\\\1", text)


def _choices(part: str) -> list[str]:
    if part.startswith("{") and part.endswith("}") and "|" in part:
        return part[1:-1].split("|")
    return [part[1:] if part[:2] in ("\\{", "\\}", "\\|") else part]
