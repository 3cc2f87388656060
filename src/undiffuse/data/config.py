"""Configuration of the data sources, one model a source. Imports neither torch nor Pillow.

``SOURCES`` is the registry: a row is the model of a source, and the model names the function that loads it. A new
source is one module in ``formats`` and one row here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from undiffuse.config import ComponentConfig

MAX_SIDE = 8192


def _checked_size(value: Any) -> Any:
    """A side, (height, width) or the text ``48x64``; the message says all three."""
    sides = value.lower().split("x") if isinstance(value, str) else value
    sides = [sides] if isinstance(sides, int) else sides
    if value is None:
        return None
    if not isinstance(sides, (list, tuple)) or len(sides) not in (1, 2) or not all(map(_is_side, sides)):
        raise ValueError(f"expected a side of 1..{MAX_SIDE} pixels or HEIGHTxWIDTH such as 48x64, got {value!r}")
    whole = tuple(int(side) for side in sides)
    return whole[0] if len(whole) == 1 else whole


def _is_side(value: Any) -> bool:
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    return type(number) is int and 1 <= number <= MAX_SIDE


def _checked_colour(value: Any) -> Any:
    """A grey level or three levels."""
    levels = [value] if isinstance(value, int) else value
    sound = isinstance(levels, (list, tuple)) and len(levels) in (1, 3)
    if not sound or not all(type(level) is int and 0 <= level <= 255 for level in levels):
        raise ValueError(f"expected a grey level 0..255 or three of them (red, green, blue), got {value!r}")
    return levels[0] if len(levels) == 1 else tuple(levels)


Colour = Annotated[int | tuple[int, int, int], BeforeValidator(_checked_colour)]
LocationText = Annotated[str, Field(min_length=1)]


class SourceConfig(ComponentConfig):
    """What every source has.

    Args:
        validation_fraction: expected share of the items held out for validation, chosen by hash of content, in [0, 1).
    """

    builder: ClassVar[str]  # "module:function" that makes the Dataset of this configuration

    validation_fraction: float = Field(default=0.1, ge=0, lt=1)


class PictureConfig(SourceConfig):
    """What every source of pictures has.

    Args:
        size: side of the square to train on, or (height, width), also written ``48x64``; ``None`` keeps the
            pictures' own size.
        channels: 1 (grey) or 3 (RGB); ``None`` takes 1 where every picture is grey, else 3.
        fit: ``crop`` scales to cover the training size and cuts the centre out; ``letterbox`` scales to fit inside
            and fills the bars with ``background`` (it never enlarges unless ``upscale`` is set).
        upscale: allow pictures to be enlarged to ``size``; otherwise one smaller than that is an error.
        background: grey level or (red, green, blue), each 0..255, under transparent pixels and in the bars.
    """

    size: Annotated[int | tuple[int, int] | None, BeforeValidator(_checked_size)] = None
    channels: Literal[1, 3] | None = None
    fit: Literal["crop", "letterbox"] = "crop"
    upscale: bool = False
    background: Colour = 0

    @property
    def target(self) -> tuple[int, int] | None:
        """(height, width) asked for, or ``None``."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def options_text(self) -> str:
        """The options that decide what a picture looks like, for provenance and fingerprints."""
        keys = ("size", "channels", "fit", "upscale", "background")
        return " ".join(f"{key}={getattr(self, key)}" for key in keys)


class DigitsConfig(PictureConfig):
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn."""

    builder: ClassVar[str] = "undiffuse.data.formats.digits:load"

    name: Literal["digits"] = "digits"


class SwissrollConfig(SourceConfig):
    """Points on a two-dimensional Swiss roll, centred, of unit mean variance.

    Args:
        num_points: how many points.
        noise: standard deviation of the Gaussian noise added to each coordinate (in units of the finished data).
        seed: the points are a function of it.
    """

    builder: ClassVar[str] = "undiffuse.data.synthetic:load_swissroll"

    name: Literal["swissroll"] = "swissroll"
    num_points: int = Field(default=10_000, ge=1, le=100_000_000)
    noise: float = Field(default=0.02, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**64)


class RingsConfig(SourceConfig):
    """Points on concentric circles, of unit mean variance.

    Args:
        num_points: how many points.
        num_rings: circles, of radii 1, 2, ... before scaling; each holds the same share of the points.
        noise: standard deviation of the Gaussian noise added to each coordinate (in units of the finished data).
        seed: the points are a function of it.
    """

    builder: ClassVar[str] = "undiffuse.data.synthetic:load_rings"

    name: Literal["rings"] = "rings"
    num_points: int = Field(default=10_000, ge=1, le=100_000_000)
    num_rings: int = Field(default=3, ge=1, le=100)
    noise: float = Field(default=0.05, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**64)


class GaussiansConfig(SourceConfig):
    """Points of equal Gaussians on a square grid, 5x5 of them, of unit mean variance.

    Args:
        num_points: how many points.
        side: Gaussians along each side of the grid.
        noise: standard deviation of each Gaussian (in units of the finished data).
        seed: the points are a function of it.
    """

    builder: ClassVar[str] = "undiffuse.data.synthetic:load_gaussians"

    name: Literal["gaussians"] = "gaussians"
    num_points: int = Field(default=10_000, ge=1, le=100_000_000)
    side: int = Field(default=5, ge=2, le=100)
    noise: float = Field(default=0.05, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**64)


class IdxConfig(PictureConfig):
    """Files in the format of MNIST (also Fashion-MNIST, KMNIST, EMNIST), gzipped or not.

    Args:
        path: a folder with ``*train-images-idx3-ubyte[.gz]`` and the like, or one file of images.
        split: which files of the folder, ``train`` or ``test`` (their authors also say ``t10k``); ``None`` means
            ``train`` for a folder, and for a file that very file.
        transpose: swap rows and columns; ``None`` does so for files with "emnist" in their name, which store their
            pictures lying on the side.
    """

    builder: ClassVar[str] = "undiffuse.data.formats.idx:load"

    name: Literal["idx"] = "idx"
    path: LocationText
    split: Literal["train", "test"] | None = None
    transpose: bool | None = None

    @property
    def location(self) -> Path:
        """``path`` with ``~`` resolved."""
        return Path(self.path).expanduser()


class FolderConfig(PictureConfig):
    """A folder of pictures of any mode and size, searched recursively in sorted order.

    Args:
        path: the folder. Hidden files and folders are passed over.
        labels: ``folders`` makes a class of each sub-folder; ``none`` reads no classes; ``auto`` reads them when
            every picture lies exactly one level down, in two sub-folders or more.
        on_error: a damaged file or one smaller than ``size`` stops the reading (``fail``) or is left out, counted
            and reported (``skip``).
    """

    builder: ClassVar[str] = "undiffuse.data.formats.folder:load"

    name: Literal["folder"] = "folder"
    path: LocationText
    labels: Literal["auto", "folders", "none"] = "auto"
    on_error: Literal["fail", "skip"] = "fail"
    background: Colour = 255

    @property
    def location(self) -> Path:
        """``path`` with ``~`` resolved."""
        return Path(self.path).expanduser()


SOURCES: dict[str, type[SourceConfig]] = {
    "digits": DigitsConfig,
    "swissroll": SwissrollConfig,
    "rings": RingsConfig,
    "gaussians": GaussiansConfig,
    "idx": IdxConfig,
    "folder": FolderConfig,
}
