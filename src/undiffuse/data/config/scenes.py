"""Configuration of the computed scenes of coloured shapes."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from undiffuse.annotators.scenes.vocabulary import COLOURS, DIGITS, SHAPES, Vocabulary, held_out_pairs
from undiffuse.annotators.scenes.vocabulary import Pair as ColouredShape
from undiffuse.data.config.base import SourceConfig
from undiffuse.errors import UsageError

#: Smallest images, in pixels, in which things of the smallest size can be distinguished.
_SMALLEST_WITH_SIZES, _SMALLEST_WITH_THREE, _SMALLEST_WITH_MORE_SHAPES = 32, 24, 24
_FEW_SHAPES = 3


class ScenesConfig(SourceConfig):
    """Computed scenes of coloured shapes with captions such as "a small red ring left of two small blue squares".

    Scene i depends only on the options and i. All scenes with one caption are in the same split.

    Args:
        size: height and width in pixels; below 32, ``sizes`` must be false.
        num_scenes: number of scenes, drawn when they are loaded; the first ones do not depend on it.
        seed: random seed of the scenes.
        shapes: number of shapes, the first of circle, square, triangle, ring, star; at most 3 below 24 px.
        colours: number of colours, the first of red, green, blue, yellow, purple, orange, cyan, white.
        sizes: things are small or large, and captions state which.
        objects: largest number of groups of things; with 3, half of the scenes have 2.
        counts: small things may come in groups of 2 or 3 (with ``sizes`` only).
        digits: ten more shapes, the digits zero to nine.
        held_out_pairs: fraction of the pairs of colour and shape that do not appear, in [0, 1); each colour and shape
            remains in some pair.
        pairs: ``seen`` for scenes without the held-out pairs, ``unseen`` for scenes with at least one of them.
    """

    contents: ClassVar[str] = "images that are computed and not stored"

    name: Literal["scenes"] = "scenes"
    size: int = Field(default=32, ge=16, le=64)
    num_scenes: int = Field(default=1_000_000, ge=1, le=100_000_000)
    seed: int = Field(default=0, ge=0, lt=2**64)
    shapes: int = Field(default=5, ge=1, le=len(SHAPES))
    colours: int = Field(default=8, ge=2, le=len(COLOURS))
    sizes: bool = True
    objects: Literal[2, 3] = 3
    counts: bool = True
    digits: bool = False
    held_out_pairs: float = Field(default=0.1, ge=0, lt=1)
    pairs: Literal["seen", "unseen"] = "seen"

    @model_validator(mode="after")
    def _check_compatible(self) -> Self:
        for wrong, option, least, instead in (
            (self.sizes, "sizes=true", _SMALLEST_WITH_SIZES, "sizes=false"),
            (self.digits, "digits=true", _SMALLEST_WITH_SIZES, "digits=false"),
            (self.objects == 3, "objects=3", _SMALLEST_WITH_THREE, "objects=2"),
            (self.shapes > _FEW_SHAPES, f"shapes={self.shapes}", _SMALLEST_WITH_MORE_SHAPES, f"shapes={_FEW_SHAPES}"),
        ):
            if wrong and self.size < least:
                raise UsageError(f"{option} needs size {least} or more, got size={self.size}; set {instead}")
        if self.pairs == "unseen" and not self.unseen_pairs:
            raise UsageError("pairs=unseen needs held-out pairs, got none; increase held_out_pairs")
        if len(self.seen_pairs) < self.objects:
            raise UsageError(
                f"objects={self.objects} needs as many pairs of colour and shape, got {len(self.seen_pairs)} that are "
                "not held out; decrease held_out_pairs or increase shapes or colours"
            )
        return self

    @property
    def vocabulary(self) -> Vocabulary:
        """The things that may appear."""
        shapes = SHAPES[: self.shapes] + (DIGITS if self.digits else ())
        return Vocabulary(self.size, shapes, tuple(COLOURS)[: self.colours], self.sizes)

    @property
    def unseen_pairs(self) -> frozenset[ColouredShape]:
        """The held-out pairs of colour and shape."""
        return held_out_pairs(self.vocabulary.colours, self.vocabulary.shapes, self.held_out_pairs)

    @property
    def seen_pairs(self) -> tuple[ColouredShape, ...]:
        """All other pairs."""
        unseen = self.unseen_pairs
        return tuple(pair for pair in self.vocabulary.pairs if pair not in unseen)
