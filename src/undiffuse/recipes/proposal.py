"""Proposes a recipe for data and hardware, with reasons. Reads no files and does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from undiffuse.wording import count_noun

#: Images per hour on two cores without native bfloat16, by the image size of the photo recipes.
IMAGES_PER_HOUR = {64: 115_000, 48: 200_000, 32: 460_000}

#: All recipes that can be proposed, and the overrides of the photo recipes for small data sets.
PROPOSED = (
    *(f"photos-{size}" for size in IMAGES_PER_HOUR),
    *("flow-mnist", "flow-fashion", "ddpm-digits", "flow-swissroll"),
)
FEW_IMAGES_OVERRIDES = ("random_flip=false", "augment=document")

#: Grey images up to this side are treated as digits, letters and the like, which ``flow-mnist`` is designed for.
_SMALL_GREY = 32
#: Smaller data sets are soon memorised; ``augment=document`` is designed for about this size.
_FEW = 1_000
#: The smallest side that the photo recipes can train on; smaller images are enlarged to it.
SMALLEST_SIDE = 8
#: Number of images on a GPU, relative to an hour on two cores.
GPU_FACTOR = 10


class DataSummary(NamedTuple):
    """Properties of a data set that are known before it is decoded.

    Args:
        source: name of the data source.
        points: whether the items are vectors, not images.
        side: the image side in pixels that the user requested, or the median of the shorter sides.
        requested: whether the user requested this side.
        smallest: the shortest side of any image; ``None`` if only a subset was examined.
        grey: whether all images are grey, or the user requested grey.
        num_items: number of images or points.
        num_classes: number of classes; 0 without classes.
        path: the location, as the user wrote it.
        as_files: whether the items were only listed, not decoded; some may be corrupt.
        unreadable: number of items that are known not to be images.
    """

    source: str
    points: bool = False
    side: int = 0
    requested: bool = False
    smallest: int | None = None
    grey: bool = False
    num_items: int = 0
    num_classes: int = 0
    path: str = ""
    as_files: bool = False
    unreadable: int = 0


class Hardware(NamedTuple):
    """The number of available cores, and whether a GPU will be used."""

    cores: int
    gpu: bool = False


class Proposal(NamedTuple):
    """A recipe, the overrides that fit it to data and machine, and why.

    Attributes:
        reasons: for the recipe, a line each.
        override_reasons: override -> reason; it applies only if the user keeps the override.
    """

    recipe: str
    overrides: tuple[str, ...]
    reasons: tuple[str, ...]
    override_reasons: Mapping[str, str] = MappingProxyType({})


def propose(data: DataSummary, hardware: Hardware) -> Proposal:
    """Propose a recipe for this data and hardware.

    Example:
        >>> propose(DataSummary("folder", side=96, smallest=96, num_items=3670, num_classes=5), Hardware(2)).recipe
        'photos-64'
    """
    if data.points:
        return Proposal(
            "flow-swissroll", (), (f"{count_noun(data.num_items, 'point')}, not images: flow matching by a perceptron",)
        )
    if data.source == "digits":
        return Proposal("ddpm-digits", (), ("the bundled 8x8 digits have their own recipe",))
    if data.grey and data.side <= _SMALL_GREY:
        return _small_grey(data)
    return _photographs(data, hardware)


def _small_grey(data: DataSummary) -> Proposal:
    recipe = "flow-fashion" if "fashion" in data.path.lower() else "flow-mnist"
    overrides = (f"data.size={data.side}",) if data.requested else ()
    what = f"{_describe_count(data)} of {data.side}x{data.side}, small like digits and letters"
    return Proposal(recipe, overrides, (what,))


def _photographs(data: DataSummary, hardware: Hardware) -> Proposal:
    size, size_reasons = _recipe_size(data, hardware)
    side = data.side if data.requested else max(min(size, data.side), SMALLEST_SIDE)
    overrides, override_reasons = [], {}
    if side != size:
        overrides.append(f"data.size={side}")
    if data.grey:
        overrides.append("data.channels=1")
    if data.smallest is None or data.smallest < side:
        overrides.append("data.upscale=true")
        if data.smallest is not None:
            override_reasons[overrides[-1]] = f"images smaller than {side}x{side} are enlarged"
    if data.num_items - data.unreadable < _FEW:
        overrides += FEW_IMAGES_OVERRIDES
        override_reasons[overrides[-1]] = f"fewer than {_FEW:,} images: {overrides[-1]} keeps it from memorising them"
    elif hardware.gpu:
        overrides.append(f"num_images={GPU_FACTOR * IMAGES_PER_HOUR[size]}")
    return Proposal(f"photos-{size}", tuple(overrides), (_describe_data(data), *size_reasons), override_reasons)


def _recipe_size(data: DataSummary, hardware: Hardware) -> tuple[int, list[str]]:
    """The largest size that the images reach, reduced on a single core, and the reason for a reduction."""
    sizes = sorted(IMAGES_PER_HOUR, reverse=True)
    reached = next((size for size in sizes if data.side >= size), sizes[-1])
    if reached == sizes[0] and hardware.cores == 1 and not hardware.gpu and not data.requested:
        return sizes[1], [
            f"{sizes[1]}x{sizes[1]}, because there is only one core; photos-{reached} would see half as many images"
        ]
    return reached, []


def _describe_data(data: DataSummary) -> str:
    classes = f" in {count_noun(data.num_classes, 'class')}" if data.num_classes else " without classes"
    return f"{_describe_count(data)}, {count_noun(data.side, 'pixel')} across{classes}"


def _describe_count(data: DataSummary) -> str:
    kind, count = "grey" if data.grey else "colour", data.num_items - data.unreadable
    return f"{count_noun(count, 'file')} of {kind} images" if data.as_files else count_noun(count, f"{kind} image")
