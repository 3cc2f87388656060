"""Captions in other words, none of which the captions of scenes contain."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType

from undiffuse.annotators.scenes.spec import parse
from undiffuse.errors import UsageError

#: Word of captions -> a word with the same meaning.
PARAPHRASES: Mapping[str, str] = MappingProxyType(
    {
        "left of": "to the left of",
        "right of": "to the right of",
        "above": "over",
        "below": "beneath",
        "small": "little",
        "large": "big",
        "circle": "disc",
        "square": "box",
        "triangle": "wedge",
        "ring": "hoop",
        "star": "pentagram",
        "red": "crimson",
        "green": "emerald",
        "blue": "azure",
        "yellow": "golden",
        "purple": "violet",
        "orange": "tangerine",
        "cyan": "turquoise",
        "white": "ivory",
    }
)


def paraphrased(caption: str, words: Collection[str] | None = None) -> str:
    """A caption with words replaced by others of the same meaning.

    Args:
        caption: of a scene.
        words: keys of ``PARAPHRASES`` to replace; all by default.

    Raises:
        UsageError: if the text is not a caption, or a word has no entry.
    """
    parse(caption)
    chosen = list(PARAPHRASES if words is None else words)
    if unknown := [word for word in chosen if word not in PARAPHRASES]:
        raise UsageError(f"no paraphrase of {unknown[0]!r}; expected some of: {', '.join(PARAPHRASES)}")
    for word in chosen:
        caption = re.sub(rf"\b{word}(s?)\b", rf"{PARAPHRASES[word]}\1", caption)
    caption = caption.replace("boxs", "boxes")
    return re.sub(r"\ban? (?=(\w))", lambda match: "an " if match[1] in "aeiou" else "a ", caption)
