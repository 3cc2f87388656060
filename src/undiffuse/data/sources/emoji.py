"""Emoji in the layout of npm's ``emoji-datasource`` packages (Cal Henderson): images with names and categories.

Layout: ``img/twitter/64/1f600.png`` and so on (also ``apple``, ``google``, ``facebook``), and ``emoji.json``, a list of
objects with ``name`` ("GRINNING FACE"), ``category``, ``image`` ("1f600.png"), ``has_img_twitter`` and so on, and for
skin tones ``skin_variations``: code of the tones -> an object that again has ``image`` and ``has_img_...``. The package
is a tar archive with the folder ``package``. The images are under their vendors' licences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from undiffuse.data.config import EmojiConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.sources.layout.classes import Classes, LabelColumn
from undiffuse.data.sources.layout.ignored_items import NOT_OF_THE_SET
from undiffuse.data.sources.layout.metadata import parse_json
from undiffuse.data.sources.layout.tree import Tree, find_list, open_tree
from undiffuse.data.storage.encoded import load_encoded
from undiffuse.data.storage.skips import Skips
from undiffuse.data.storage.string_array import StringArray
from undiffuse.errors import UsageError
from undiffuse.registry import nearest

MAX_BYTES = 2**26  # limit for emoji.json; published ones have 1.5 MB
_SHEETS = re.compile(r"(?P<root>.*?)img/(?P<vendor>[^/]+)/(?P<size>\d+)/(?P<image>[^/]+)")
_TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}


class Emoji(NamedTuple):
    """Image of the list with its caption and category."""

    image: str
    caption: str
    category: str
    has_tone: bool


def load(config: EmojiConfig) -> Dataset:
    """Load the images of one vendor in the order of the list.

    Raises:
        UsageError: if the package or the vendor's images are missing, there are several vendors and none is selected,
            the list has another form, or (unless ``on_error=skip``) an image is damaged or listed but missing; the
            message names it.
    """
    skips = Skips(config.on_error)
    tree = open_tree(config.location, skips, "an emoji-datasource package")
    vendor, name_of = _images(config, tree)
    all_emoji = list(_listed(tree, vendor, skips))
    requested = [emoji for emoji in all_emoji if config.skin_tones == "all" or not emoji.has_tone]
    for emoji in requested:
        if emoji.image not in name_of:
            skips.take(UsageError(f"{tree.location}: emoji.json lists {emoji.image} for {vendor}, but it is missing"))
    kept = [emoji for emoji in requested if emoji.image in name_of]
    skips.check_images_left(len(kept), len(all_emoji))
    about = {
        "vendor": vendor,
        "skin_tones": f"{config.skin_tones}: {len(all_emoji) - len(requested)} of {len(all_emoji)} images left out",
        "licence": f"that of {vendor}'s emoji; the list is under the MIT licence",
    }
    listed = {emoji.image for emoji in all_emoji}
    for image in sorted(set(name_of) - listed):
        tree.names.left_out.add(NOT_OF_THE_SET, name_of[image])
    about |= tree.names.left_out.notes
    files = tree.files([name_of[emoji.image] for emoji in kept])
    classes = _classes(config, kept)
    captions = StringArray(emoji.caption for emoji in kept) if config.captions == "auto" else None
    return load_encoded(config, files, classes.labels, classes.names, captions, about, skips)


def _classes(config: EmojiConfig, kept: Sequence[Emoji]) -> Classes:
    column = LabelColumn()
    if config.labels == "none":
        return Classes(None, ())
    return column.classes(np.array([column.code(emoji.category, emoji.image) for emoji in kept], dtype=np.int64))


def _images(config: EmojiConfig, tree: Tree) -> tuple[str, dict[str, str]]:
    """The vendor, and the name in the package of each of its images at the largest available size."""
    found: dict[str, dict[int, dict[str, str]]] = {}
    for name in tree.names.images:
        match = _SHEETS.fullmatch(name)
        if match is not None and int(match["size"]) > 0:
            sizes = found.setdefault(match["vendor"], {})
            sizes.setdefault(int(match["size"]), {})[match["image"]] = name
    if not found:
        raise UsageError(f"{tree.location}: no emoji images; expected names such as img/twitter/64/1f600.png")
    if config.vendor is not None and config.vendor not in found:
        raise UsageError(f"{tree.location}: no images of vendor={config.vendor}; {nearest(config.vendor, found)}")
    if config.vendor is None and len(found) > 1:
        raise UsageError(f"{tree.location}: has images of {', '.join(sorted(found))}; choose one with vendor=")
    vendor = config.vendor or next(iter(found))
    return vendor, found[vendor][max(found[vendor])]


def _listed(tree: Tree, vendor: str, skips: Skips) -> Iterator[Emoji]:
    """Listed images of a vendor; entries of another form are reported to ``skips``."""
    name = find_list(tree, "emoji.json")
    if name is None:
        raise UsageError(f"{tree.location}: no emoji.json; expected the whole emoji-datasource package")
    title = tree.title_of(name)
    entries = parse_json(tree.read_sidecar(name, MAX_BYTES), title)
    if not isinstance(entries, list):
        raise UsageError(f"{title}: not a list of emoji; expected that of emoji-datasource")
    for number, entry in enumerate(entries):
        try:
            found = list(_parse_entry(entry, vendor))
        except (KeyError, TypeError, AttributeError, ValueError):
            skips.take(UsageError(f"{title}: entry {number} is not an emoji with name, category and image"))
        else:
            yield from found


def _parse_entry(entry: dict[str, Any], vendor: str) -> Iterator[Emoji]:
    """Images of an entry: the base image, and those with skin tones."""
    name, category = entry["name"] or entry["short_name"].replace("_", " "), entry["category"]
    _check_text(name, category, entry["image"])
    if entry.get(f"has_img_{vendor}"):
        yield Emoji(entry["image"], name.lower(), category, False)
    for code, variation in entry.get("skin_variations", {}).items():
        tones = " and ".join(dict.fromkeys(_TONES[tone] for tone in code.split("-")))
        _check_text(variation["image"])
        if variation.get(f"has_img_{vendor}"):
            yield Emoji(variation["image"], f"{name.lower()}, {tones} skin tone", category, True)


def _check_text(*values: object) -> None:
    if not all(isinstance(value, str) and value for value in values):
        raise ValueError
