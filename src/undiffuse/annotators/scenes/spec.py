"""What a caption requests: groups of equal things and the relations of the first to the others."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from undiffuse.annotators.scenes.vocabulary import (
    ALL_SHAPES,
    COLOURS,
    COUNT_WORDS,
    MOST_GROUPS,
    RELATIONS,
    SIZES,
)
from undiffuse.errors import UsageError

_IRREGULAR_PLURALS = {"six": "sixes"}


@dataclass(frozen=True)
class Group:
    """Equal things next to each other.

    Args:
        count: number of things, 1 to 3.
        size: ``small``, ``large`` or None where scenes have one size.
        colour: name of the colour.
        shape: name of the shape.
    """

    count: int
    size: str | None
    colour: str
    shape: str

    @property
    def phrase(self) -> str:
        """Such as ``a small red circle`` or ``three small green rings``."""
        noun = self.shape if self.count == 1 else plural(self.shape)
        words = [word for word in (self.size, self.colour, noun) if word]
        article = "an" if self.count == 1 and words[0][0] in "aeiou" else COUNT_WORDS[self.count - 1]
        return " ".join([article, *words])


@dataclass(frozen=True)
class SceneSpec:
    """A subject and one or two groups in relation to it.

    Args:
        groups: 2 or 3; the first is the subject.
        relations: the subject is ``relations[i]`` the group i + 1; two are on different axes.
    """

    groups: tuple[Group, ...]
    relations: tuple[str, ...]

    @property
    def caption(self) -> str:
        """Such as ``a red circle left of a blue square and above two yellow stars``."""
        parts = [f"{word} {group.phrase}" for word, group in zip(self.relations, self.groups[1:], strict=True)]
        return f"{self.groups[0].phrase} {' and '.join(parts)}"


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return _IRREGULAR_PLURALS.get(shape, f"{shape}s")


_SHAPE_OF = {name: shape for shape in ALL_SHAPES for name in (shape, plural(shape))}
_RELATION_PATTERN = re.compile(rf" ({'|'.join(RELATIONS)}) ")


def parse(caption: str) -> SceneSpec:
    """The scene that a caption describes.

    Args:
        caption: as ``SceneSpec.caption`` writes it.

    Raises:
        UsageError: for any other text.
    """
    head, *rest = _RELATION_PATTERN.split(caption)
    relations, phrases = tuple(rest[::2]), [head, *rest[1::2]]
    phrases = [*(phrase.removesuffix(" and") for phrase in phrases[:-1]), phrases[-1]] if phrases else phrases
    if not 2 <= len(phrases) <= MOST_GROUPS:
        raise _not_a_caption(caption, f"{len(relations)} relations, expected one or two of: {', '.join(RELATIONS)}")
    spec = SceneSpec(tuple(_parse_group(phrase, caption) for phrase in phrases), relations)
    if len(relations) == 2 and vertical(relations[0]) == vertical(relations[1]):
        raise _not_a_caption(caption, "two relations on one axis, expected a horizontal and a vertical one")
    if spec.caption != caption:
        raise _not_a_caption(caption, f"expected {spec.caption!r}")
    return spec


def vertical(relation: str) -> bool:
    """Whether a relation compares heights."""
    return RELATIONS.index(relation) >= 2


def swapped(caption: str) -> str:
    """The caption with the subject and the first other group exchanged.

    Raises:
        UsageError: if the text is not a caption.
    """
    spec = parse(caption)
    first, second, *rest = spec.groups
    return replace(spec, groups=(second, first, *rest)).caption


def _parse_group(phrase: str, caption: str) -> Group:
    words = phrase.split(" ")
    count = 1 if words[0] == "an" else _position(COUNT_WORDS, words[0], caption) + 1
    size = words[1] if len(words) > 1 and words[1] in SIZES else None
    rest = words[2:] if size else words[1:]
    if len(rest) != 2 or rest[0] not in COLOURS or rest[1] not in _SHAPE_OF:
        raise _not_a_caption(caption, f"expected a colour and a shape at the end of {phrase!r}")
    return Group(count, size, rest[0], _SHAPE_OF[rest[1]])


def _position(words: tuple[str, ...], word: str, caption: str) -> int:
    if word not in words:
        raise _not_a_caption(caption, f"{word!r}, expected one of: {', '.join(words)}")
    return words.index(word)


def _not_a_caption(caption: str, why: str) -> UsageError:
    return UsageError(f"{caption!r} is not a caption of a scene: {why}; examples: undiffuse data info scenes")
