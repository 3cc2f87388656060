"""Samples of a tar shard: grouping members into samples, and selecting the image of a sample.

Members with the same key are one sample. The text between the key and the last extension is the name of a column
(``left`` and ``right`` in ``0001.left.png``, ``0001.right.png``), unless it is a number or contains a space: such names
(``frame.0001.png``, ``cat.1.png``, ``St. Mary.png``) belong to different images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from undiffuse.data.readers.tar_index import Member
from undiffuse.data.readers.text import readable
from undiffuse.data.sources.layout.captions import is_document
from undiffuse.data.sources.layout.folder_files import is_image_file, is_shown
from undiffuse.data.sources.layout.ignored_items import FURTHER, HIDDEN, LINK, OTHER, IgnoredItems, kind_of
from undiffuse.data.storage.skips import Skips
from undiffuse.errors import UsageError

Members = dict[str, list[Member]]  # by ending, the part of the name after the key
SIDECAR_ENDINGS = ("cls", "txt", "json")
_NAME_PART = re.compile(r"[^a-zA-Z]+|.* .*")  # text between the first and the last dot


class Sample(NamedTuple):
    """Images and sidecars with the same key, by ending."""

    key: str
    images: Members
    sidecars: Members


def relevant(members: Iterator[Member], shard: Path, skips: Skips, left_out: IgnoredItems) -> Iterator[Member]:
    """Filter images and sidecars and clean their names; other members are left out."""
    for member in members:
        parts = [part for part in member.name.replace("\\", "/").split("/") if part != "."] or [""]
        is_sidecar = parts[-1].rpartition(".")[2].lower() in SIDECAR_ENDINGS
        if not member.is_plain:
            left_out.add(LINK, member.name)
        elif not is_image_file(parts[-1]) and not is_sidecar:
            left_out.add(kind_of(parts[-1]) if all(map(is_shown, parts)) else HIDDEN, member.name)
        elif ".." in parts or parts[0] == "":
            where = f"{readable(str(shard))}!{member.name!r}"
            skips.take(UsageError(f"{where}: the member's name leads out of the shard; expected a path inside it"))
        elif not all(map(is_shown, parts)) or is_document(parts[-1]):
            left_out.add(OTHER if all(map(is_shown, parts)) else HIDDEN, member.name)
        elif is_sidecar and _ending(parts[-1]) not in SIDECAR_ENDINGS and not _middle(_ending(parts[-1])):
            left_out.add(OTHER, member.name)
        else:
            yield member._replace(name="/".join(parts))


def scattered_keys(members: Iterable[Member]) -> frozenset[str]:
    """Keys whose members are not all adjacent, as in a shard written without sorting its names.

    Keys with repeated endings are excluded: those are two samples with the same key.

    Args:
        members: members of one shard; iterated twice if there are such keys.
    """
    current, seen, scattered = "", set[int](), dict[str, set[str]]()
    for key, _ in _named(members):
        if key != current:
            if hash(key) in seen:
                scattered[key] = set()
            seen.add(hash(key))
        current = key
    again = set[str]()
    for key, ending in _named(members) if scattered else ():
        if key in scattered:
            again |= {key} if ending in scattered[key] else set()
            scattered[key].add(ending)
    return frozenset(scattered) - again


def _named(members: Iterable[Member]) -> Iterator[tuple[str, str]]:
    """(key, ending) of the members that may be images or sidecars."""
    for member in members:
        parts = [part for part in member.name.replace("\\", "/").split("/") if part != "."] or [""]
        if is_image_file(parts[-1]) or parts[-1].rpartition(".")[2].lower() in SIDECAR_ENDINGS:
            yield _key("/".join(parts)), _ending(parts[-1])


def samples_of(
    members: Iterator[Member], image_column: str | None, scattered: frozenset[str] = frozenset()
) -> Iterator[Sample]:
    """Group members into samples, in order; with an image column, all members with the same key are one sample.

    Args:
        members: members of one shard.
        image_column: column of the image in samples of several images, or ``None``.
        scattered: keys whose members are collected from the whole shard; their samples come last.
    """
    for key, group in _grouped(members, scattered):
        if image_column is not None or not _has_separate_images(group):
            yield _sample(key, group)
            continue
        by_name: dict[str, Members] = {}
        for ending, found in group.items():
            middle = _middle(ending)
            by_name.setdefault(middle, {}).setdefault(ending[len(middle) :].lstrip("."), []).extend(found)
        for middle, part in by_name.items():
            yield _sample(f"{key}.{middle}" if middle else key, part)


def image_of(sample: Sample, title: str, image_column: str | None, left_out: IgnoredItems) -> Member:
    """Select the image of a sample: that of the given column, else ``key.png``, else the only one.

    Further images are left out.

    Raises:
        UsageError: if there is no image, several without a column, or none in the column; the choices are listed.
    """
    images = [(ending, member) for ending, found in sample.images.items() for member in found]
    if not images:
        raise UsageError(f"{title}: a sample without an image (it has .{', .'.join(sample.sidecars)})")
    selected = _requested(images, image_column) if image_column else _plain(images) or images
    choices = f"data.image_column={' or '.join(sorted({ending for ending, _ in images}))}"
    if not selected:
        raise UsageError(f"{title}: a sample without an image {image_column!r}; use {choices}")
    if len({ending for ending, _ in selected}) < len(selected):
        raise UsageError(f"{title}: {len(selected)} members with the same name; names in a sample must be unique")
    if len(selected) > 1:
        raise UsageError(
            f"{title}: a sample with {len(selected)} images; choose one of each sample by {choices}, or unpack the "
            "shard and name the folder if the images are separate items"
        )
    for _, member in images:
        if member is not selected[0][1]:
            left_out.add(FURTHER, member.name)
    return selected[0][1]


def _requested(images: list[tuple[str, Member]], column: str) -> list[tuple[str, Member]]:
    """Images whose ending is the column, with or without the file extension."""
    requested = column.casefold().lstrip(".")
    return [pair for pair in images if requested in (pair[0].casefold(), pair[0].casefold().rpartition(".")[0])]


def _plain(images: list[tuple[str, Member]]) -> list[tuple[str, Member]]:
    return [pair for pair in images if "." not in pair[0]]


def _has_separate_images(group: Members) -> bool:
    """Whether the text between key and extension distinguishes separate images, not columns of one sample."""
    images = [ending for ending in group if is_image_file(f"x.{ending}")]
    sidecars = [ending for ending in group if ending not in images]
    if any("." in ending and not _middle(ending) for ending in images):
        return False
    has_plain = any("." not in ending for ending in images)
    has_columns = any(map(_middle, images)) and (len(images) > 1 or any(map(_middle, sidecars)) or not sidecars)
    return has_columns and (has_plain or all(map(_middle, sidecars)))


def _sample(key: str, group: Members) -> Sample:
    images = {ending: found for ending, found in group.items() if is_image_file(f"x.{ending}")}
    return Sample(key, images, {ending: found for ending, found in group.items() if ending not in images})


def _ending(basename: str) -> str:
    """Everything after the first dot, as in WebDataset."""
    return basename.partition(".")[2].lower()


def _middle(ending: str) -> str:
    """The text before the last dot if it is part of the name, not a column; otherwise empty."""
    middle = ending.rpartition(".")[0]
    return middle if _NAME_PART.fullmatch(middle) else ""


def _key(name: str) -> str:
    """Path of a member up to the first dot of its base name."""
    folder, slash, basename = name.rpartition("/")
    return folder + slash + basename.partition(".")[0]


def _grouped(members: Iterator[Member], scattered: frozenset[str]) -> Iterator[tuple[str, Members]]:
    """(key, members by ending) of each run of members that share a key; members with scattered keys are collected."""
    current, group, collected = "", Members(), dict[str, Members]()
    for member in members:
        key, ending = _key(member.name), _ending(member.name.rpartition("/")[2])
        if key in scattered:
            collected.setdefault(key, {}).setdefault(ending, []).append(member)
            continue
        if group and key != current:
            yield current, group
            group = {}
        current = key
        group.setdefault(ending, []).append(member)
    if group:
        yield current, group
    yield from collected.items()
