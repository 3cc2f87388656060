"""What the configurations of all sources, and of all sources of images, have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from undiffuse.config import ComponentConfig
from undiffuse.sealed import parse_json

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
    valid = isinstance(levels, (list, tuple)) and len(levels) in (1, 3)
    if not valid or not all(type(level) is int and 0 <= level <= 255 for level in levels):
        raise ValueError(f"expected a grey level 0..255 or three of them (red, green, blue), got {value!r}")
    return levels[0] if len(levels) == 1 else tuple(levels)


def _checked_classes(value: Any) -> Any:
    """Names, also as one text with commas, ``3,5``; a number is the name of a class that is called so.

    In a list, which may be JSON in a text, a name is taken as it is, whatever commas or spaces are in it.
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
    """Of ``3,5`` or ``["a, b", "c"]``."""
    if text.lstrip().startswith("["):
        try:
            return parse_json(text)
        except ValueError:
            pass  # a class may be called [x
    return [name for part in text.split(",") if (name := part.strip())]


Colour = Annotated[int | tuple[int, int, int], BeforeValidator(_checked_colour)]
LocationText = Annotated[str, Field(min_length=1)]


class SourceConfig(ComponentConfig):
    """What every source has.

    Args:
        validation_fraction: expected share of the items held out for validation, chosen by hash of content, in [0, 1).
    """

    validation_fraction: float = Field(default=0.1, ge=0, lt=1)


class ImageConfig(SourceConfig):
    """What every source of images has.

    Args:
        size: side of the square to train on, or (height, width), also written ``48x64``; ``None`` keeps the
            images' own size.
        channels: 1 (grey) or 3 (RGB); ``None`` takes 1 where every image is grey, else 3.
        fit: ``crop`` scales to cover the training size and cuts the centre out; ``letterbox`` scales to fit inside
            and fills the bars with ``background`` (it never enlarges unless ``upscale`` is set).
        upscale: allow images to be enlarged to ``size``; otherwise one smaller than that is an error.
        background: grey level or (red, green, blue), each 0..255, under transparent pixels and in the bars.
        classes: names of the classes whose images are kept, also written ``3,5``; none named keeps all. The set then
            has these classes alone, in its own order.
    """

    size: Annotated[int | tuple[int, int] | None, BeforeValidator(_checked_size)] = None
    channels: Literal[1, 3] | None = None
    fit: Literal["crop", "letterbox"] = "crop"
    upscale: bool = False
    background: Colour = 0
    classes: Annotated[tuple[str, ...], BeforeValidator(_checked_classes)] = ()

    @property
    def target(self) -> tuple[int, int] | None:
        """(height, width) asked for, or ``None``."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def options_text(self) -> str:
        """The options that decide what an image looks like, for provenance and fingerprints."""
        keys = ("size", "channels", "fit", "upscale", "background")
        return " ".join(f"{key}={getattr(self, key)}" for key in keys)


class EncodedConfig(ImageConfig):
    """What every source of encoded image files has, wherever they lie: in a folder, an archive or a table.

    Args:
        path: the file or folder.
        labels: where the classes come from; ``auto`` finds out and ``none`` reads none. A source may know more words.
        captions: ``auto`` reads the texts that go with the images where there are any; ``none`` reads none.
        on_error: a damaged image, one smaller than ``size``, or one without the label or caption that the others
            have stops the reading (``fail``) or is left out, counted and reported (``skip``).
        cache: where the decoded images are kept. ``auto``: in memory where they fit into 2 GiB, else on disk in the
            user's cache where they take no more than half of what is free there; ``none``: never on disk; a folder:
            there, whatever their size. No part of what the images are.
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
        """Files outside ``location`` that are read too where they are there; a set kept in a cache depends on them."""
        return ()
