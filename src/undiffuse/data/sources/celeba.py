"""CelebA (``img_align_celeba/000001.jpg`` ...) and CelebA-HQ (``CelebA-HQ-img/0.jpg`` ...) with their attributes.

Published by Liu, Luo, Wang and Tang ("Deep Learning Face Attributes in the Wild", 2015, arXiv:1411.7766), and as
CelebAMask-HQ by Lee, Liu, Wu and Luo (2020, arXiv:1907.11922); both for non-commercial research only. The lists (see
``celeba_lists``) are next to the folder or archive of images, or in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import CelebaConfig
from undiffuse.data.config.published import ATTRIBUTE_LISTS, PARTITIONS
from undiffuse.data.dataset import Dataset
from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.sources.celeba_lists import MAX_BYTES, Attributes, read_attributes, read_partition
from undiffuse.data.sources.layout.ignored_items import NOT_OF_THE_SET, IgnoredItems
from undiffuse.data.sources.layout.splits import split_note
from undiffuse.data.sources.layout.tree import Tree, find_list, open_tree
from undiffuse.data.storage.encoded import load_encoded
from undiffuse.data.storage.skips import Skips
from undiffuse.data.storage.string_array import StringArray
from undiffuse.errors import UsageError
from undiffuse.registry import nearest

_NUMBERED = re.compile(r"\d{1,6}\.(jpg|png|webp)")
_LISTS = (*ATTRIBUTE_LISTS, *PARTITIONS)
_LICENCE = "non-commercial research only, according to its authors"


class _Faces(NamedTuple):
    """Images by base name, in order, with their attributes and the names of the selected split."""

    tree: Tree
    images: dict[str, str]
    attributes: Attributes | None
    split: str
    kept: list[str]


def load(config: CelebaConfig) -> Dataset:
    """Load the faces in the order of their numbers, with one attribute as the class and all attributes as the caption.

    Raises:
        UsageError: if there are no such images, the list for the attribute or split is missing or damaged, or (unless
            ``on_error=skip``) an image is damaged or missing from a list, or a listed image is missing; the message
            names it.
    """
    skips = Skips(config.on_error)
    faces = _faces(config, skips)
    skips.check_images_left(len(faces.kept), len(faces.images))
    labels, classes, captions = None, tuple[str, ...](), None
    if faces.attributes is not None:
        rows = [faces.attributes.row_of[name] for name in faces.kept]
        labels, classes = _classes(config, faces.attributes, rows)
        captions = StringArray(map(faces.attributes.caption, rows)) if config.captions == "auto" else None
    files = faces.tree.files([faces.images[name] for name in faces.kept])
    about = {"licence": _LICENCE, "split": faces.split, **_left_out(faces).notes}
    if faces.split == "train":
        about |= split_note(len(faces.kept), len(faces.images), config.split)
    return load_encoded(config, files, labels, classes, captions, about, skips)


def _left_out(faces: _Faces) -> IgnoredItems:
    """Record the other files at the location, except for CelebA's own lists."""
    found, used = faces.tree.names.left_out, set(faces.images.values())
    for name in faces.tree.names.images:
        if name not in used:
            found.add(NOT_OF_THE_SET, name)
    found.add_others(name for name in faces.tree.names.others if name.rpartition("/")[2] not in _LISTS)
    return found


def _faces(config: CelebaConfig, skips: Skips) -> _Faces:
    tree = open_tree(config.location, skips, "CelebA's folder or img_align_celeba.zip")
    images = _images(tree)
    attributes = _attributes(config, tree, skips)
    split, kept = _of_split(config, tree, images, skips)
    if attributes is not None:
        missing = [name for name in kept if name not in attributes.row_of]
        for name in missing:
            skips.take(UsageError(f"{tree.title_of(images[name])}: not in the list of attributes"))
        kept = [name for name in kept if name in attributes.row_of]
        for name in attributes.row_of:
            if name not in images:
                skips.take(UsageError(f"{config.location}: the list of attributes names {name}, which is missing"))
    return _Faces(tree, images, attributes, split, kept)


def _images(tree: Tree) -> dict[str, str]:
    """Map base name -> name in the tree, in the order of the numbers; images with other names are ignored."""
    found: dict[str, str] = {}
    for name in tree.names.images:
        basename = name.rpartition("/")[2]
        if not _NUMBERED.fullmatch(basename):
            continue
        if basename in found:
            raise UsageError(
                f"{tree.location}: {found[basename]} and {name} have the same number; name the folder of one of them"
            )
        found[basename] = name
    if not found:
        raise UsageError(f"{tree.location}: no CelebA images; expected names such as 000001.jpg or 0.jpg")
    return dict(sorted(found.items(), key=lambda pair: int(pair[0].partition(".")[0])))


def _attributes(config: CelebaConfig, tree: Tree, skips: Skips) -> Attributes | None:
    for name in ATTRIBUTE_LISTS:
        listed = _read_list(tree, name)
        if listed is not None:
            return read_attributes(listed[1], listed[0], skips.take)
    if config.attribute is not None:
        raise UsageError(
            f"{config.location}: attribute={config.attribute}, but neither {' nor '.join(ATTRIBUTE_LISTS)} was found"
        )
    return None


def _read_list(tree: Tree, basename: str) -> tuple[str, bytes] | None:
    """(title, content) of a list in the tree or next to it, if there is one."""
    inside = find_list(tree, basename)
    if inside is not None:
        return tree.title_of(inside), tree.read_sidecar(inside, MAX_BYTES)
    path = tree.location.resolve().parent / basename
    if not path.is_file():
        return None
    file = FileAt(path)
    if file.size > MAX_BYTES:
        raise UsageError(f"{path}: {file.size} bytes exceed the limit of {MAX_BYTES} for a list")
    return str(path), file.read(0, file.size)


def _of_split(config: CelebaConfig, tree: Tree, images: Mapping[str, str], skips: Skips) -> tuple[str, list[str]]:
    """Name of the requested split, and the names of its images."""
    requested = config.split or "train"
    listed = next((found for name in PARTITIONS if (found := _read_list(tree, name))), None)
    if requested == "all" or (listed is None and config.split is None):
        return "all", list(images)
    if listed is None:
        raise UsageError(f"{config.location}: split={requested}, but there is no {PARTITIONS[0]} (or .csv)")
    split_of = read_partition(listed[1], listed[0], skips.take)
    if config.split is None and "train" not in map(split_of.get, images):
        return "all", list(images)
    for name in images:
        if name not in split_of:
            skips.take(UsageError(f"{tree.title_of(images[name])}: not in {listed[0].rpartition('/')[2]}"))
    return requested, [name for name in images if split_of.get(name) == requested]


def _classes(
    config: CelebaConfig, attributes: Attributes, rows: list[int]
) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    """Labels and names of two classes: faces without the attribute and faces with it."""
    if config.attribute is None or config.labels == "none":
        return None, ()
    known = {name.lower(): place for place, name in enumerate(attributes.names)}
    name = config.attribute.strip().lower().replace(" ", "_")
    if name not in known:
        hint = nearest(config.attribute, attributes.names)
        raise UsageError(f"{config.location}: no attribute {config.attribute!r}; {hint}")
    shown = attributes.names[known[name]]
    return attributes.has[rows, known[name]].astype(np.int64), (f"not {shown}", shown)
