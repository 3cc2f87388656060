"""The text of a captioned item: one caption, or several alternatives, one per line; an empty text is no caption."""

from __future__ import annotations

from collections.abc import Iterable

_SEPARATOR = "\n"


def join_alternatives(captions: Iterable[str]) -> str:
    """The text of an item with these captions: one per line, without repetitions and empty ones.

    Args:
        captions: the captions; white space within one, line breaks included, becomes single spaces.
    """
    lines = (" ".join(caption.split()) for caption in captions)
    return _SEPARATOR.join(dict.fromkeys(line for line in lines if line))


def alternatives_of(text: str) -> list[str]:
    """The captions in the text of an item, at least one; that of an empty text is empty.

    Args:
        text: as ``join_alternatives`` returns it.
    """
    return text.split(_SEPARATOR)


def draw_alternative(text: str, u: float, last_share: float | None = None) -> str:
    """One of the captions in the text of an item.

    Args:
        text: as ``join_alternatives`` returns it.
        u: uniform random number in [0, 1).
        last_share: probability of the last alternative if there are several; equal to the others by default.
    """
    captions = alternatives_of(text)
    if last_share is None or len(captions) == 1:
        return captions[int(u * len(captions))]
    if u < last_share:
        return captions[-1]
    return captions[int((u - last_share) / (1 - last_share) * (len(captions) - 1))]
