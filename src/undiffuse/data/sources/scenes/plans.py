"""Which groups of things fit into a scene together, and how they may be arranged.

All lengths are in pixels. The arrangement is described in a frame in which the subject is left of one other group, the
*first*, and above the *second*, if there is one; ``layout`` turns the frame for the other relations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

from undiffuse.annotators.scenes.vocabulary import COUNTS, quarters

#: Free pixels at each border.
MARGIN = 0.25
#: A group's things are next to each other (0) or on top of each other (1).
ROW, COLUMN = 0, 1
#: Extra distance of groups, since positions are rounded to multiples of 1/4 pixel.
_ROUNDING = 0.25


def gap(size: int) -> float:
    """Distance of the things of a group."""
    return max(quarters(size / 16), 1.5)


def group_distance(size: int) -> float:
    """Smallest distance of two groups along the axis of their relation, before rounding of the positions."""
    return gap(size) + _ROUNDING


@cache
def options_of(sizes: bool, counts: bool) -> tuple[tuple[int, int], ...]:
    """(count, size) of a group, the size being 0 for none, 1 for small and 2 for large.

    Args:
        sizes: whether things have sizes.
        counts: whether small things may come in groups.
    """
    if not sizes:
        return ((1, 0),)
    return ((1, 2), *((count, 1) for count in (COUNTS if counts else COUNTS[:1])))


@cache
def possible_choices(size: int, sizes: bool, counts: bool, num_groups: int) -> tuple[tuple[int, ...], ...]:
    """Combinations of options that fit, one number in ``options_of`` per group.

    Args:
        size: of the image.
        sizes: whether things have sizes.
        counts: whether small things may come in groups.
        num_groups: 2 or 3.
    """
    options = options_of(sizes, counts)
    combinations = product(range(len(options)), repeat=num_groups)
    return tuple(chosen for chosen in combinations if arrangements(size, tuple(options[number] for number in chosen)))


@cache
def arrangements(size: int, options: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int, int, int], ...]:
    """Possible arrangements of groups.

    Args:
        size: of the image.
        options: (count, size) of each group.

    Returns:
        (number of the group in the role of the first, directions of the subject, the first and the second).
    """
    boxes = [[_extent(size, count, kind, direction) for direction in (ROW, COLUMN)] for count, kind in options]
    length, distance = size - 2 * MARGIN, group_distance(size)
    if len(options) == 2:
        return ((1, COLUMN, COLUMN, COLUMN),)
    found = []
    for first, *directions in product((1, 2), *[(ROW, COLUMN)] * 3):
        if any(direction == COLUMN and count == 1 for direction, count in _in_roles(directions, options, first)):
            continue  # a single thing has no direction
        a, b, c = (boxes[group][direction] for group, direction in zip((0, first, 3 - first), directions, strict=True))
        if a[0] + distance + b[0] <= length and max(a[1], b[1]) + distance + c[1] <= length:
            found.append((first, directions[0], directions[1], directions[2]))
    return tuple(found)


def _in_roles(directions: Sequence[int], options: tuple[tuple[int, int], ...], first: int) -> list[tuple[int, int]]:
    counts = (options[0][0], options[first][0], options[3 - first][0])
    return list(zip(directions, counts, strict=True))


def _extent(size: int, count: int, kind: int, direction: int) -> tuple[float, float]:
    """Width and height of a group at its largest."""
    side = quarters((7 if kind == 1 else 13) * size / 32)
    long = count * side + (count - 1) * gap(size)
    return (long, side) if direction == ROW else (side, long)
