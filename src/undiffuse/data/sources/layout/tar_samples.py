"""The samples of a tar shard: which members are one sample, and which of its images is taken.

Members that share a key are one sample. What stands between the key and the last ending is the name of a column
(``left`` and ``right`` in ``0001.left.png``, ``0001.right.png``), unless it is a number or has a space: such names
(``frame.0001.png``, ``cat.1.png``, ``St. Mary.png``) are those of different images.
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
from undiffuse.data.sources.layout.left_out import FURTHER, HIDDEN, LINK, OTHER, LeftOut, kind_of
from undiffuse.data.storage.skips import Skips
from undiffuse.errors import UsageError

Members = dict[str, list[Member]]  # by what the name ends in, after the key
NOTES = ("cls", "txt", "json")
_OF_THE_NAME = re.compile(r"[^a-zA-Z]+|.* .*")  # between the first dot and the last


class Sample(NamedTuple):
    """Images and sidecars that belong together, by ending."""

    key: str
    images: Members
    sidecars: Members


def relevant(members: Iterator[Member], shard: Path, skips: Skips, left_out: LeftOut) -> Iterator[Member]:
    """Images and sidecars with their names cleaned; the rest is left out."""
    for member in members:
        parts = [part for part in member.name.replace("\\", "/").split("/") if part != "."] or [""]
        is_note = parts[-1].rpartition(".")[2].lower() in NOTES
        if not member.is_plain:
            left_out.add(LINK, member.name)
        elif not is_image_file(parts[-1]) and not is_note:
            left_out.add(kind_of(parts[-1]) if all(map(is_shown, parts)) else HIDDEN, member.name)
        elif ".." in parts or parts[0] == "":
            where = f"{readable(str(shard))}!{member.name!r}"
            skips.take(UsageError(f"{where}: the member's name leads out of the shard; expected one below it"))
        elif not all(map(is_shown, parts)) or is_document(parts[-1]):
            left_out.add(OTHER if all(map(is_shown, parts)) else HIDDEN, member.name)
        elif is_note and _ending(parts[-1]) not in NOTES and not _middle(_ending(parts[-1])):
            left_out.add(OTHER, member.name)
        else:
            yield member._replace(name="/".join(parts))


def scattered_keys(members: Iterable[Member]) -> frozenset[str]:
    """The keys whose members do not all follow each other, as in a shard written without sorting its names.

    Keys that have a member of the same ending again are no such: those are two samples of one key.

    Args:
        members: of one shard; gone through twice where there are such keys.
    """
    running, seen, scattered = "", set[int](), dict[str, set[str]]()
    for key, _ in _named(members):
        if key != running:
            if hash(key) in seen:
                scattered[key] = set()
            seen.add(hash(key))
        running = key
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
        if is_image_file(parts[-1]) or parts[-1].rpartition(".")[2].lower() in NOTES:
            yield _key("/".join(parts)), _ending(parts[-1])


def samples_of(
    members: Iterator[Member], image_column: str | None, scattered: frozenset[str] = frozenset()
) -> Iterator[Sample]:
    """The samples that members make, in their order; a column that is named is looked for in all of a key.

    Args:
        members: of one shard.
        image_column: of samples of several images, or ``None``.
        scattered: keys that are put together from all over the shard, and come last.
    """
    for key, group in _grouped(members, scattered):
        if image_column is not None or not _is_of_names(group):
            yield _sample(key, group)
            continue
        own: dict[str, Members] = {}
        for ending, found in group.items():
            middle = _middle(ending)
            own.setdefault(middle, {}).setdefault(ending[len(middle) :].lstrip("."), []).extend(found)
        for middle, part in own.items():
            yield _sample(f"{key}.{middle}" if middle else key, part)


def image_of(sample: Sample, title: str, image_column: str | None, left_out: LeftOut) -> Member:
    """The image of a sample: that of the column that is named, else ``key.png``, else the only one.

    Further images are left out.

    Raises:
        UsageError: no image, several of which none is named, or none of the name; the choices are listed.
    """
    images = [(ending, member) for ending, found in sample.images.items() for member in found]
    if not images:
        raise UsageError(f"{title}: a sample without an image (it has .{', .'.join(sample.sidecars)})")
    taken = _requested(images, image_column) if image_column else _plain(images) or images
    choices = f"data.image_column={' or '.join(sorted({ending for ending, _ in images}))}"
    if not taken:
        raise UsageError(f"{title}: a sample without an image {image_column!r}; take {choices}")
    if len({ending for ending, _ in taken}) < len(taken):
        raise UsageError(f"{title}: {len(taken)} members of one name; a sample has one image of a name")
    if len(taken) > 1:
        raise UsageError(
            f"{title}: a sample with {len(taken)} images; choose one of each sample by {choices}, or unpack the shard "
            "and name the folder if each is an image of its own"
        )
    for _, member in images:
        if member is not taken[0][1]:
            left_out.add(FURTHER, member.name)
    return taken[0][1]


def _requested(images: list[tuple[str, Member]], column: str) -> list[tuple[str, Member]]:
    """Those whose ending is the column, with the ending of an image's file or without."""
    wanted = column.casefold().lstrip(".")
    return [pair for pair in images if wanted in (pair[0].casefold(), pair[0].casefold().rpartition(".")[0])]


def _plain(images: list[tuple[str, Member]]) -> list[tuple[str, Member]]:
    return [pair for pair in images if "." not in pair[0]]


def _is_of_names(group: Members) -> bool:
    """Whether what stands between the key and the ending tells images apart that are no columns of one sample."""
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
    """All after the first dot, as WebDataset takes it."""
    return basename.partition(".")[2].lower()


def _middle(ending: str) -> str:
    """What stands before the last dot where it is a part of the name, no column's; else nothing."""
    middle = ending.rpartition(".")[0]
    return middle if _OF_THE_NAME.fullmatch(middle) else ""


def _key(name: str) -> str:
    """All of a member's name before the first dot of its last part."""
    folder, slash, basename = name.rpartition("/")
    return folder + slash + basename.partition(".")[0]


def _grouped(members: Iterator[Member], scattered: frozenset[str]) -> Iterator[tuple[str, Members]]:
    """(key, members by ending) of each run of members that share a key; those of scattered keys are joined."""
    running, group, held_back = "", Members(), dict[str, Members]()
    for member in members:
        key, ending = _key(member.name), _ending(member.name.rpartition("/")[2])
        if key in scattered:
            held_back.setdefault(key, {}).setdefault(ending, []).append(member)
            continue
        if group and key != running:
            yield running, group
            group = {}
        running = key
        group.setdefault(ending, []).append(member)
    if group:
        yield running, group
    yield from held_back.items()
