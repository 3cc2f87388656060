"""Words of the computed scenes: shapes, colours, sizes, counts, relations, and the pairs that are held out.

The order of the tables determines hashes of captions and so the split of every set of scenes; entries are only added
at the end. Imports neither numpy nor torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

#: Geometric shapes; a set with ``n`` shapes has the first ``n``.
SHAPES = ("circle", "square", "triangle", "ring", "star")
#: Drawn with strokes, if digits are enabled.
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ALL_SHAPES = SHAPES + DIGITS
#: Red, green, blue, each 0..255; a set with ``n`` colours has the first ``n``.
COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (225, 35, 40),
        "green": (35, 175, 60),
        "blue": (50, 85, 240),
        "yellow": (245, 225, 40),
        "purple": (165, 50, 200),
        "orange": (250, 125, 20),
        "cyan": (55, 210, 225),
        "white": (240, 240, 240),
    }
)
#: Colour of the plain background.
BACKGROUND = (20, 20, 24)
SIZES = ("small", "large")
COUNTS = (1, 2, 3)
COUNT_WORDS = ("a", "two", "three")
#: The first two are horizontal, the others vertical.
RELATIONS = ("left of", "right of", "above", "below")
MOST_GROUPS = 3

Pair = tuple[str, str]


@dataclass(frozen=True)
class Vocabulary:
    """The things that a set of scenes may contain.

    Args:
        size: height and width of the images in pixels.
        shapes: names of shapes.
        colours: names of colours.
        sizes: whether things are small or large and captions state it; otherwise all have one size.
    """

    size: int
    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    sizes: bool

    @property
    def unit(self) -> float:
        """Pixels per unit of length; an image is 32 units wide."""
        return self.size / 32

    @property
    def sides(self) -> Mapping[str | None, tuple[float, ...]]:
        """Possible sides of the bounding box in pixels, multiples of 1/4, by size; None is the only size."""
        if self.sizes:
            return {
                "small": (quarters(7 * self.unit),),
                "large": tuple(quarters(side * self.unit) for side in (12, 12.5, 13)),
            }
        return {None: tuple(quarters(side * self.unit) for side in (12, 12.5, 13))}

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All pairs (colour, shape)."""
        return tuple((colour, shape) for colour in self.colours for shape in self.shapes)


def quarters(length: float) -> float:
    """The nearest multiple of 1/4."""
    return round(4 * length) / 4


@cache
def held_out_pairs(colours: tuple[str, ...], shapes: tuple[str, ...], fraction: float) -> frozenset[Pair]:
    """Pairs (colour, shape) that do not appear in scenes of seen pairs, the first by hash.

    Every colour and every shape remains in at least one other pair, so there may be fewer than the fraction.

    Args:
        colours: names of colours.
        shapes: names of shapes.
        fraction: of all pairs, in [0, 1).
    """
    pairs = sorted(((colour, shape) for colour in colours for shape in shapes), key=_pair_hash)
    wanted, chosen, kept = round(fraction * len(pairs)), set[Pair](), set(pairs)
    for pair in pairs:
        rest = kept - {pair}
        complete = {colour for colour, _ in rest} == set(colours) and {shape for _, shape in rest} == set(shapes)
        if len(chosen) < wanted and complete:
            chosen.add(pair)
            kept = rest
    return frozenset(chosen)


def _pair_hash(pair: Pair) -> bytes:
    return hashlib.blake2b(" ".join(pair).encode(), digest_size=16).digest()
