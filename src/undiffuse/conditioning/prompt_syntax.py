"""Syntax of prompts: ``(red:1.3)`` weights a part of the text, `` AND `` composes several texts.

A backslash before a bracket makes it a character of the text; brackets without a weight are part of the text, too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from undiffuse.errors import UsageError

_AND = re.compile(r"\sAND\s")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_WEIGHT = re.compile(rf":\s*({_NUMBER})\s*$")
_OPEN_WEIGHT = re.compile(rf":\s*{_NUMBER}(?:\s|$)")
_TERM_WEIGHT = re.compile(rf"\s:({_NUMBER})\s*$")
#: Largest weight of a part of a text or of a term.
_LARGEST = 100.0


class WeightedText(NamedTuple):
    """A text with weighted parts.

    Attributes:
        text: the text without the syntax of weights.
        weights: (start, end, weight) of parts; nested parts have several, which multiply.
    """

    text: str
    weights: tuple[tuple[int, int, float], ...] = ()

    def weight_of(self, span: tuple[int, int]) -> float:
        """The weight of the characters from ``start`` to ``end``.

        Args:
            span: (start, end), as of a token.
        """
        start, end = span
        weight = 1.0
        for first, last, factor in self.weights:
            if first <= start and end <= last and start < end:
                weight *= factor
        return weight


class Term(NamedTuple):
    """One text of a composition and its weight relative to the guidance weight."""

    text: WeightedText
    weight: float = 1.0


def parse_prompt(prompt: str) -> tuple[Term, ...]:
    """The terms of a prompt, one unless it contains ``AND``.

    Args:
        prompt: such as ``a (red:1.3) circle AND a blue square :0.5``.
    Raises:
        UsageError: unbalanced brackets around a weight, an empty term, or a weight out of range.
    Example:
        >>> parse_prompt("a (red:1.5) circle")[0].text
        WeightedText(text='a red circle', weights=((2, 5, 1.5),))
    """
    parts = _AND.split(prompt)
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise UsageError(f"AND composes two texts, got {prompt!r}; give a text on both sides")
    return tuple(_term_of(part, prompt) for part in parts)


def _term_of(part: str, prompt: str) -> Term:
    found = _TERM_WEIGHT.search(part)
    weight = _checked(found.group(1), prompt) if found else 1.0
    return Term(_weighted(part[: found.start()] if found else part, prompt), weight)


def _weighted(part: str, prompt: str) -> WeightedText:
    """Remove the syntax of weights from a text."""
    text, opened, weights = "", list[int](), list[tuple[int, int, float]]()
    letters = iter(part)
    for letter in letters:
        if letter == "\\":
            text += next(letters, "\\")
        elif letter == "(":
            opened.append(len(text))
            text += letter
        elif letter == ")":
            text = _close(text, opened, weights, prompt)
        else:
            text += letter
    for start in opened:
        if _OPEN_WEIGHT.search(text[start:]):
            raise _unbalanced(prompt)
    return WeightedText(text, tuple(weights))


def _close(text: str, opened: list[int], weights: list[tuple[int, int, float]], prompt: str) -> str:
    """The text after a closing bracket; a weight before it is removed with both brackets."""
    found = _WEIGHT.search(text, opened[-1] if opened else 0)
    if not opened:
        if found:
            raise _unbalanced(prompt)
        return f"{text})"
    start = opened.pop()
    if found is None:
        return f"{text})"
    inner = text[start + 1 : found.start()]
    inside = [(first - 1, last - 1, weight) for first, last, weight in weights if first > start]
    weights[:] = [row for row in weights if row[0] <= start] + inside
    weights.append((start, start + len(inner), _checked(found.group(1), prompt)))
    return text[:start] + inner


def _checked(weight: str, prompt: str) -> float:
    value = float(weight)
    if not 0 <= value <= _LARGEST:
        raise UsageError(f"a weight in a prompt must be from 0 to {_LARGEST:g}, got {weight} in {prompt!r}")
    return value


def _unbalanced(prompt: str) -> UsageError:
    return UsageError(
        f"unbalanced brackets around a weight in {prompt!r}; write (words:1.3), and \\( for a bracket in the text"
    )
