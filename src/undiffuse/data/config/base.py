"""Base classes of the configurations of data sources and of image sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from undiffuse.checksums import parse_json
from undiffuse.config import ComponentConfig

MAX_SIDE = 8192


def _checked_size(value: Any) -> Any:
    """Parse a side, (height, width) or the string ``48x64``."""
    sides = value.lower().split("x") if isinstance(value, str) else value
    sides = [sides] if isinstance(sides, int) else sides
    if value is None:
        return None
    if not isinstance(sides, (list, tuple)) or len(sides) not in (1, 2) or not all(map(_is_side, sides)):
        raise ValueError(f"expected a side of 1..{MAX_SIDE} pixels or HEIGHTxWIDTH such as 48x64, got {value!r}")
    parsed_sides = tuple(int(side) for side in sides)
    return parsed_sides[0] if len(parsed_sides) == 1 else parsed_sides


def _is_side(value: Any) -> bool:
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    return type(number) is int and 1 <= number <= MAX_SIDE


def _checked_colour(value: Any) -> Any:
    """Check a grey level or three levels."""
    levels = [value] if isinstance(value, int) else value
    valid = isinstance(levels, (list, tuple)) and len(levels) in (1, 3)
    if not valid or not all(type(level) is int and 0 <= level <= 255 for level in levels):
        raise ValueError(f"expected a grey level 0..255 or three of them (red, green, blue), got {value!r}")
    return levels[0] if len(levels) == 1 else tuple(levels)


def _checked_classes(value: Any) -> Any:
    """Parse class names, also as a comma-separated string, ``3,5``; a number is the name of a class.

    In a list, which may be given as JSON, names may contain commas and spaces.
    """
    names = _names_in(value) if isinstance(value, str) else value
    names = [names] if isinstance(names, int) and not isinstance(names, bool) else names
    if not isinstance(names, (list, tuple)) or not all(type(name) in (str, int) for name in names):
        raise ValueError(f'expected names of classes such as 3,5 or ["cat", "dog"], got {value!r}')
    chosen = tuple(map(str, names))
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"a class is named twice in {value!r}; name each once")
    return chosen


def _names_in(text: str) -> Any:
    """The names in ``3,5`` or ``["a, b", "c"]``."""
    if text.lstrip().startswith("["):
        try:
            return parse_json(text)
        except ValueError:
            pass  # a class may be named [x
    return [name for part in text.split(",") if (name := part.strip())]


def _checked_template(value: str | None) -> str | None:
    """Check a caption of classes, which has one place for the name."""
    if value is not None and (value.count("{}") != 1 or set(value.replace("{}", "")) & set("{}\n")):
        raise ValueError(f"expected a caption with {{}} for the class, such as 'a photo of {{}}', got {value!r}")
    return value


Colour = Annotated[int | tuple[int, int, int], BeforeValidator(_checked_colour)]
LocationText = Annotated[str, Field(min_length=1)]


class SourceConfig(ComponentConfig):
    """Options of all sources.

    Attributes:
        contents: what a source without images of its own has, for messages.

    Args:
        validation_fraction: expected fraction of items held out for validation, chosen by content hash, in [0, 1).
    """

    contents: ClassVar[str] = "points"

    validation_fraction: float = Field(default=0.1, ge=0, lt=1)


class ImageConfig(SourceConfig):
    """Options of all image sources.

    Args:
        size: side of the square to train on, or (height, width), also written ``48x64``; ``None`` keeps the size of
            the images.
        channels: 1 (grey) or 3 (RGB); ``None`` takes 1 if every image is grey, else 3.
        fit: ``crop`` scales to cover the training size and crops the centre; ``letterbox`` scales to fit inside
            and fills the bars with ``background`` (it never enlarges unless ``upscale`` is set).
        upscale: allow images to be enlarged to ``size``; otherwise a smaller image is an error.
        background: grey level or (red, green, blue), each 0..255, under transparent pixels and in the bars.
        classes: names of the classes whose images are used, also written ``3,5``; empty for all. The set then has
            only these classes, in their original order.
        class_captions: caption of the images of a class, with ``{}`` for its name, such as ``a photo of {}``: of
            images without a caption, and one more caption of those that have some. Requires classes.
        class_share: share of the visits of an image with captions of its own that use that of its class, in [0, 1).
    """

    size: Annotated[int | tuple[int, int] | None, BeforeValidator(_checked_size)] = None
    channels: Literal[1, 3] | None = None
    fit: Literal["crop", "letterbox"] = "crop"
    upscale: bool = False
    background: Colour = 0
    classes: Annotated[tuple[str, ...], BeforeValidator(_checked_classes)] = ()
    class_captions: Annotated[str | None, AfterValidator(_checked_template)] = None
    class_share: float = Field(default=0.1, ge=0, lt=1)

    @property
    def target(self) -> tuple[int, int] | None:
        """The configured (height, width), or ``None``."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def options_text(self) -> str:
        """The options that affect the pixels, for provenance and fingerprints."""
        keys = ("size", "channels", "fit", "upscale", "background")
        return " ".join(f"{key}={getattr(self, key)}" for key in keys)


class EncodedConfig(ImageConfig):
    """Options of all sources of encoded image files, in a folder, an archive or a table.

    Args:
        path: the file or folder.
        labels: where the classes come from; ``auto`` detects it and ``none`` reads none. Sources may have more choices.
        captions: ``auto`` reads the captions of the images if there are any, also several of one image, of which each
            visit in training uses one; images without a caption are trained on without one. ``none`` reads none.
        on_error: whether a corrupt image, one smaller than ``size``, or one without the label that other images have
            raises an error (``fail``) or is skipped, counted and reported (``skip``).
        cache: where decoded images are cached. ``auto``: in memory if they fit into 2 GiB, else on disk in the user's
            cache folder if they take at most half of its free space; ``none``: never on disk; a folder: always there.
            Does not affect the images.
    """

    path: LocationText
    labels: str = "auto"
    captions: Literal["auto", "none"] = "auto"
    on_error: Literal["fail", "skip"] = "fail"
    background: Colour = 255
    cache: LocationText = "auto"

    @property
    def location(self) -> Path:
        """``path`` with ``~`` resolved."""
        return Path(self.path).expanduser()

    @property
    def companions(self) -> tuple[Path, ...]:
        """Files outside ``location`` that are read if they exist; the stamp of the cache includes them."""
        return ()
