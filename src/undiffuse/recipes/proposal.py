"""Which recipe fits data and hardware: a recipe's name with the reasons. Reads nothing and imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from undiffuse.wording import counted

#: Images that two cores without products in bfloat16 see in an hour, by the size of the recipe for photographs.
IMAGES_PER_HOUR = {64: 115_000, 48: 200_000, 32: 460_000}

#: Every recipe that is ever proposed, and what is said of those for photographs of few images.
PROPOSED = (
    *(f"photos-{size}" for size in IMAGES_PER_HOUR),
    *("flow-mnist", "flow-fashion", "ddpm-digits", "flow-swissroll"),
)
FEW_IMAGES_OVERRIDES = ("random_flip=false", "augment=document")

#: Grey images up to this side are taken for digits, letters and their kin, which ``flow-mnist`` is made for.
_SMALL_GREY = 32
#: Fewer images than this are soon memorised; ``augment=document`` is made for about so many.
_FEW = 1_000
#: Of images without this side the recipes for photographs can make nothing; they are enlarged to it.
SMALLEST_SIDE = 8
#: A GPU gets this many times the images of an hour on two cores.
GPU_FACTOR = 10


class DataSummary(NamedTuple):
    """What is known of data before anything of it is decoded.

    Args:
        source: its name among the data sources.
        points: vectors rather than images.
        side: pixels of the square to train on that the user asked for, or of the shorter side that half of them reach.
        requested: the user asked for that side.
        smallest: the shortest side of any image; ``None`` where only some were looked at.
        grey: all images are, or the user asked for grey ones.
        num_items: images or points.
        num_classes: 0 where they have none.
        path: where they lie, as the user wrote it.
        as_files: the items were found and not decoded yet; some may turn out to be damaged.
        unreadable: so many of them are known not to be images.
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
    """What there is to compute with: cores that may be used, and whether a GPU will be."""

    cores: int
    gpu: bool = False


class Proposal(NamedTuple):
    """A recipe, the overrides that fit it to data and machine, and why.

    Attributes:
        reasons: for the recipe, a line each.
        override_reasons: the reasons for some of the overrides, which fall with them.
    """

    recipe: str
    overrides: tuple[str, ...]
    reasons: tuple[str, ...]
    override_reasons: Mapping[str, str] = MappingProxyType({})


def propose(data: DataSummary, hardware: Hardware) -> Proposal:
    """The recipe to begin with on this data and this hardware.

    Example:
        >>> propose(DataSummary("folder", side=96, smallest=96, num_items=3670, num_classes=5), Hardware(2)).recipe
        'photos-64'
    """
    if data.points:
        return Proposal(
            "flow-swissroll", (), (f"{counted(data.num_items, 'point')}, not images: flow matching by a perceptron",)
        )
    if data.source == "digits":
        return Proposal("ddpm-digits", (), ("the 8x8 digits that come along have a recipe of their own",))
    if data.grey and data.side <= _SMALL_GREY:
        return _small_grey(data)
    return _photographs(data, hardware)


def _small_grey(data: DataSummary) -> Proposal:
    recipe = "flow-fashion" if "fashion" in data.path.lower() else "flow-mnist"
    overrides = (f"data.size={data.side}",) if data.requested else ()
    what = f"{_counted(data)} of {data.side}x{data.side}, small like digits and letters"
    return Proposal(recipe, overrides, (what,))


def _photographs(data: DataSummary, hardware: Hardware) -> Proposal:
    size, why = _recipe_size(data, hardware)
    side = data.side if data.requested else max(min(size, data.side), SMALLEST_SIDE)
    overrides, override_reasons = [], {}
    if side != size:
        overrides.append(f"data.size={side}")
    if data.grey:
        overrides.append("data.channels=1")
    if data.smallest is None or data.smallest < side:
        overrides.append("data.upscale=true")
        if data.smallest is not None:
            override_reasons[overrides[-1]] = f"some of them are smaller than {side}x{side} and are enlarged"
    if data.num_items - data.unreadable < _FEW:
        overrides += FEW_IMAGES_OVERRIDES
        override_reasons[overrides[-1]] = f"fewer than {_FEW:,} images: {overrides[-1]} keeps it from memorising them"
    elif hardware.gpu:
        overrides.append(f"num_images={GPU_FACTOR * IMAGES_PER_HOUR[size]}")
    return Proposal(f"photos-{size}", tuple(overrides), (_described(data), *why), override_reasons)


def _recipe_size(data: DataSummary, hardware: Hardware) -> tuple[int, list[str]]:
    """The largest size that the images reach and one core can bear, and why it is not a larger one."""
    sizes = sorted(IMAGES_PER_HOUR, reverse=True)
    reached = next((size for size in sizes if data.side >= size), sizes[-1])
    if reached == sizes[0] and hardware.cores == 1 and not hardware.gpu and not data.requested:
        return sizes[1], [f"{sizes[1]}x{sizes[1]}, for there is one core; photos-{reached} sees half as many images"]
    return reached, []


def _described(data: DataSummary) -> str:
    classes = f" in {counted(data.num_classes, 'class')}" if data.num_classes else " without classes"
    return f"{_counted(data)}, {counted(data.side, 'pixel')} across{classes}"


def _counted(data: DataSummary) -> str:
    kind, count = "grey" if data.grey else "colour", data.num_items - data.unreadable
    return f"{counted(count, 'file')} of {kind} images" if data.as_files else counted(count, f"{kind} image")
