"""How much of a requested scene is in an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields

from undiffuse.annotators.scenes.reading import FoundThing
from undiffuse.annotators.scenes.spec import Group, SceneSpec
from undiffuse.annotators.scenes.vocabulary import RELATIONS

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Agreement:
    """Shares of a request that an image fulfils, each in [0, 1].

    Attributes:
        objects: things found with a requested shape, as a share of the things requested.
        colours: the same for colours.
        bindings: the same for shape and colour of one thing.
        sizes: the same for shape, colour and size, if a size is requested.
        counts: groups with the right number of things of their shape and colour.
        relations: relations that hold between the things found of two groups.
        all: 1 if the image has exactly the requested things in the requested relations, else 0.
    """

    objects: float
    colours: float
    bindings: float
    sizes: float
    counts: float
    relations: float
    all: float

    def to_dict(self) -> dict[str, float]:
        """The shares by name."""
        return {name: getattr(self, name) for name in AGREEMENTS}


#: Names of the shares.
AGREEMENTS = tuple(field.name for field in fields(Agreement))


def score(spec: SceneSpec, found: Sequence[FoundThing]) -> Agreement:
    """Compare a requested scene with the things in an image.

    Args:
        spec: the requested scene.
        found: the things in the image, see ``read_scene``.
    """
    requested = [group for group in spec.groups for _ in range(group.count)]
    counts = [len(_members(group, found)) == group.count for group in spec.groups]
    relations = [
        _holds(relation, _members(spec.groups[0], found), _members(group, found))
        for relation, group in zip(spec.relations, spec.groups[1:], strict=True)
    ]
    exact = Counter(map(_whole, requested)) == Counter(map(_whole, found))
    return Agreement(
        objects=_share(requested, found, lambda thing: thing.shape),
        colours=_share(requested, found, lambda thing: thing.colour),
        bindings=_share(requested, found, lambda thing: (thing.colour, thing.shape)),
        sizes=_share(requested, found, _whole),
        counts=sum(counts) / len(counts),
        relations=sum(relations) / len(relations),
        all=float(exact and all(relations)),
    )


def mean_agreement(agreements: Sequence[Agreement]) -> dict[str, float]:
    """Mean of each share.

    Args:
        agreements: of at least one image.
    """
    return {name: sum(getattr(one, name) for one in agreements) / len(agreements) for name in AGREEMENTS}


def _whole(thing: Group | FoundThing) -> tuple[str | None, str, str | None]:
    return thing.size, thing.colour, thing.shape


def _share(
    requested: Sequence[Group], found: Sequence[FoundThing], key: Callable[[Group | FoundThing], Hashable]
) -> float:
    common = Counter(map(key, requested)) & Counter(map(key, found))
    return common.total() / len(requested)


def _members(group: Group, found: Iterable[FoundThing]) -> list[FoundThing]:
    return [thing for thing in found if (thing.colour, thing.shape) == (group.colour, group.shape)]


def _holds(relation: str, subject: Sequence[FoundThing], other: Sequence[FoundThing]) -> bool:
    """Whether the centres of two groups differ in the direction of the relation more than across it."""
    if not subject or not other:
        return False
    (x, y), (other_x, other_y) = _centre(subject), _centre(other)
    number = RELATIONS.index(relation)
    along, across = (other_x - x, other_y - y) if number < 2 else (other_y - y, other_x - x)
    return (-along if number % 2 else along) > abs(across)


def _centre(things: Sequence[FoundThing]) -> tuple[float, float]:
    """Centre of the bounding box of all things."""
    left, top = (min(thing.box[side] for thing in things) for side in (0, 1))
    right, bottom = (max(thing.box[side] for thing in things) for side in (2, 3))
    return (left + right) / 2, (top + bottom) / 2
