"""Configuration of the source that joins several sets of images with captions made by a template."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from undiffuse.checksums import parse_json
from undiffuse.data.config.base import EncodedConfig, LocationText

#: Places in a template.
PLACES = ("part", "name", "tags")


def _checked_parts(value: Any) -> Any:
    """Parse ``twitter=a.zip,google=b.zip`` or the same in JSON."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return parse_json(value)
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(equals and name.strip() and path.strip() for name, equals, path in pairs):
        raise ValueError(f"expected NAME=PATH of each part, such as oil=paintings,photo=photos.zip, got {value!r}")
    return {name.strip(): path.strip() for name, _, path in pairs}


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _checked_templates(value: tuple[str, ...]) -> tuple[str, ...]:
    for template in value:
        unknown = [place for place in re.findall(r"\{(.*?)\}", template) if place not in PLACES]
        if unknown or "\n" in template or set(re.sub(r"\{.*?\}", "", template)) & set("{}"):
            places = ", ".join(f"{{{place}}}" for place in PLACES)
            raise ValueError(f"a template has places for {places}, got {template!r}")
    return value


class JoinConfig(EncodedConfig):
    """Several sets of images of the same things, such as drawings in several styles, with captions from a template.

    The images of a part that show the same thing have the same name. All images of one name are in the same split, in
    whichever part, so that held-out names are never seen in training.

    Args:
        path: the folder that contains the parts.
        parts: name of each part and its place in the folder, a folder, an archive or a table, also written
            ``oil=paintings,photo=photos.zip``. Empty for every sub-folder and archive of the folder, named after it.
        names: a list of names and tags in the folder, in JSON, one JSON object per line, or CSV; each entry has the
            file name without its ending or the code point of an emoji (``file``, ``stem``, ``key``, ``id`` or
            ``hexcode``), a name (``name``, ``label`` or ``caption``), and ``tags``, which may be missing. An image
            belongs to the entry of its file name, else of its caption; others are left out. ``None`` names an image
            after its caption, else after its file.
        templates: captions of an image, of which each visit in training uses one: texts with ``{part}``, ``{name}`` and
            ``{tags}``, separated by commas. One with ``{tags}`` is left out for images without tags.
        ignored_words: words in file names and captions that are no part of the name, such as ``final``.
        labels: ``auto`` makes the parts the classes; ``none`` reads none.
        captions: ``none`` makes no captions.
    """

    name: Literal["join"] = "join"
    parts: Annotated[dict[str, str], BeforeValidator(_checked_parts)] = Field(default_factory=dict)
    names: LocationText | None = None
    templates: Annotated[
        tuple[str, ...], BeforeValidator(_listed), AfterValidator(_checked_templates), Field(min_length=1)
    ] = ("{name}, {part}",)
    ignored_words: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    labels: Literal["auto", "none"] = "auto"

    @property
    def names_location(self) -> Path | None:
        """The list of names."""
        return None if self.names is None else self.location / Path(self.names).expanduser()

    @property
    def companions(self) -> tuple[Path, ...]:
        """The list and parts that may be outside the folder."""
        named = [self.location / Path(place).expanduser() for place in self.parts.values()]
        return tuple(path for path in [*named, self.names_location] if path is not None)
