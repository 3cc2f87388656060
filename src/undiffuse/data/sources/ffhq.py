"""FFHQ (Flickr-Faces-HQ): faces numbered 00000 to 69999, in folders of a thousand each.

Published by Karras, Laine and Aila ("A Style-Based Generator Architecture for GANs", 2019, arXiv:1812.04948):
``images1024x1024/00000/00000.png``, ``thumbnails128x128/00000/00000.png`` and ``in-the-wild-images``, where the folder
is the number rounded down to a thousand; some copies have no folders. The first 60,000 images are for training, the
rest for validation. The data set is under CC BY-NC-SA 4.0; each photograph has its own licence.
"""

from __future__ import annotations

import re

from undiffuse.data.config import FfhqConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.sources.layout.splits import split_note
from undiffuse.data.sources.layout.tree import open_tree
from undiffuse.data.storage.encoded import load_encoded
from undiffuse.data.storage.skips import Skips
from undiffuse.errors import UsageError

NUM_IMAGES, NUM_TRAIN = 70_000, 60_000
_NAME = re.compile(r"(?P<set>.*?/)??((?P<folder>\d{5})/)?(?P<number>\d{5})\.(png|jpg|webp)")
_LICENCE = "CC BY-NC-SA 4.0 (the set); each photograph has its own licence, see ffhq-dataset-v2.json"


def load(config: FfhqConfig) -> Dataset:
    """Load the faces of a folder or archive, in the order of their numbers.

    Raises:
        UsageError: if there are no such images or several of the sets, or (unless ``on_error=skip``) an image is
            damaged, has no FFHQ number or is in the wrong folder; the message names it.
    """
    skips = Skips(config.on_error)
    tree = open_tree(config.location, skips, "FFHQ's folders or a zip of them")
    found: dict[int, str] = {}
    sets: set[str] = set()
    for name in tree.names.images:
        try:
            number, inside = _number(name)
            if number in found and inside in sets and len(sets) == 1:
                raise UsageError(f"there are two images with the number {number:05}")
        except UsageError as error:
            skips.take(UsageError(f"{tree.title_of(name)}: {error}"))
            continue
        sets.add(inside)
        found[number] = name
    if len(sets) > 1:
        raise UsageError(
            f"{config.location}: contains several sets ({', '.join(sorted(sets))}); name the folder of one of them"
        )
    split = config.split or ("train" if any(_is_of("train", number) for number in found) else "all")
    kept = [found[number] for number in sorted(found) if _is_of(split, number)]
    if not kept:
        skips.check_images_left(0, skips.count) if skips.count else None
        raise UsageError(f"{config.location}: no image of split={split}; expected 00000/00000.png")
    tree.names.left_out.add_others(tree.names.others)
    about = {"licence": _LICENCE, "complete": f"{len(found)} of the {NUM_IMAGES} that were published"}
    about |= tree.names.left_out.notes | split_note(len(kept), len(found), config.split)
    return load_encoded(config, tree.files(kept), provenance=about, skips=skips)


def _number(name: str) -> tuple[int, str]:
    """(number of an image, folder of its set)."""
    match = _NAME.fullmatch(name)
    if match is None or int(match["number"]) >= NUM_IMAGES:
        raise UsageError("not an FFHQ image; expected a name from 00000.png to 69999.png")
    number = int(match["number"])
    if match["folder"] is not None and int(match["folder"]) != number - number % 1000:
        raise UsageError(f"is in the wrong folder; expected it in {number - number % 1000:05}")
    return number, match["set"] or "."


def _is_of(split: str, number: int) -> bool:
    return split == "all" or (split == "train") == (number < NUM_TRAIN)
