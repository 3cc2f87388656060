"""Many scenes as arrays of word numbers, and a number for each distinct caption."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from undiffuse.annotators.scenes.spec import Group, SceneSpec
from undiffuse.annotators.scenes.vocabulary import ALL_SHAPES, COLOURS, MOST_GROUPS, RELATIONS, SIZES

Numbers = npt.NDArray[np.int64]

_COLOURS = tuple(COLOURS)
_SIZES: tuple[str | None, ...] = (None, *SIZES)
#: Radices of caption numbers, larger than the tables so that these may grow.
_RADIX_COUNT, _RADIX_SIZE, _RADIX_COLOUR, _RADIX_SHAPE, _RADIX_RELATION = 4, 4, 16, 32, 8


@dataclass(frozen=True)
class SceneArrays:
    """Words of B scenes; -1 where there is no third group.

    Args:
        count: (B, 3) things in each group.
        size: (B, 3) 0 for no size, 1 small, 2 large.
        colour: (B, 3) index in ``COLOURS``.
        shape: (B, 3) index in ``ALL_SHAPES``.
        relation: (B, 2) index in ``RELATIONS``, of the subject to the second and to the third group.
    """

    count: Numbers
    size: Numbers
    colour: Numbers
    shape: Numbers
    relation: Numbers

    def __len__(self) -> int:
        return len(self.count)

    @property
    def num_groups(self) -> Numbers:
        """(B,) 2 or 3."""
        return 2 + (self.count[:, 2] > 0).astype(np.int64)

    def select(self, rows: Numbers) -> SceneArrays:
        """The scenes at these positions."""
        return SceneArrays(self.count[rows], self.size[rows], self.colour[rows], self.shape[rows], self.relation[rows])

    def caption_numbers(self) -> Numbers:
        """(B,) non-negative, equal for equal captions only."""
        code = self._group_numbers(0)
        for group in (1, 2):
            code = code * _RADIX_RELATION + self.relation[:, group - 1] + 1
            code = code * (_RADIX_COUNT * _RADIX_SIZE * _RADIX_COLOUR * _RADIX_SHAPE) + self._group_numbers(group)
        return code

    def _group_numbers(self, group: int) -> Numbers:
        number = (self.count[:, group] + 1) * _RADIX_SIZE + self.size[:, group] + 1
        number = number * _RADIX_COLOUR + self.colour[:, group] + 1
        return number * _RADIX_SHAPE + self.shape[:, group] + 1

    def specs(self) -> list[SceneSpec]:
        """The same scenes, one object each."""
        return [self._spec(row) for row in range(len(self))]

    def captions(self) -> list[str]:
        """One text per scene."""
        phrases = [self._phrases(group) for group in range(MOST_GROUPS)]
        first, second = ([f" {RELATIONS[r]} " for r in self.relation[:, axis].tolist()] for axis in (0, 1))
        return [
            f"{a}{r}{b}" + (f" and{q}{c}" if c else "")
            for a, r, b, q, c in zip(phrases[0], first, phrases[1], second, phrases[2], strict=True)
        ]

    def _phrases(self, group: int) -> list[str]:
        numbers, rows, inverse = np.unique(self._group_numbers(group), return_index=True, return_inverse=True)
        texts = [self._group(row, group).phrase if self.count[row, group] > 0 else "" for row in rows.tolist()]
        return [texts[place] for place in inverse.tolist()] if len(numbers) else []

    def _group(self, row: int, group: int) -> Group:
        colour, shape = _COLOURS[self.colour[row, group]], ALL_SHAPES[self.shape[row, group]]
        return Group(int(self.count[row, group]), _SIZES[self.size[row, group]], colour, shape)

    def _spec(self, row: int) -> SceneSpec:
        num = 3 if self.count[row, 2] > 0 else 2
        groups = tuple(self._group(row, group) for group in range(num))
        return SceneSpec(groups, tuple(RELATIONS[self.relation[row, axis]] for axis in range(num - 1)))


def arrays_of(specs: Iterable[SceneSpec]) -> SceneArrays:
    """Word numbers of scenes.

    Args:
        specs: B scenes.
    """
    rows = list(specs)
    columns = {
        "count": [[group.count for group in spec.groups] for spec in rows],
        "size": [[_SIZES.index(group.size) for group in spec.groups] for spec in rows],
        "colour": [[_COLOURS.index(group.colour) for group in spec.groups] for spec in rows],
        "shape": [[ALL_SHAPES.index(group.shape) for group in spec.groups] for spec in rows],
    }
    relation = [[RELATIONS.index(word) for word in spec.relations] for spec in rows]
    return SceneArrays(
        **{name: _padded(values, MOST_GROUPS) for name, values in columns.items()},
        relation=_padded(relation, MOST_GROUPS - 1),
    )


def _padded(rows: Sequence[Sequence[int]], width: int) -> Numbers:
    values = [[*row, *[-1] * (width - len(row))] for row in rows]
    return np.array(values, dtype=np.int64).reshape(-1, width)
