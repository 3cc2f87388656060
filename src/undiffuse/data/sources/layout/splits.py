"""Splits of a published data set (training, validation, test) and masks, by the names of folders or files.

A level of folders consists of splits if **every** folder is named after a split (``train``, ``Val``, ``test2017``,
``DIV2K_valid_HR``) and there are at least two different ones: a class named ``test`` among other classes is not a
split. The rest of the names must be the same in all splits, and is a class if it differs (``trainA``, ``trainB``,
``testA``, ``testB``). At a level of ``images`` and ``masks`` (``labels``, ``annotations``) only the images are read.
Imports neither torch nor numpy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from undiffuse.data.readers.text import readable
from undiffuse.errors import UsageError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
ALL, NONE = "all", "none"
_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation", "holdout", "heldout"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
}
_FILLERS = frozenset({"set", "data", "images", "image", "imgs", "img", "split", "photos", "pictures", ""})  # data
_IMAGES = frozenset(
    {"image", "images", "img", "imgs", "jpegimages", "photo", "photos", "picture", "pictures", "rgb"}  # data
)
_MASKS = frozenset(
    {
        "mask",
        "masks",
        "label",
        "labels",
        "annotation",
        "annotations",
        "segmentation",
        "segmentations",
        "segmentationclass",
        "segmentationobject",
        "trimap",
        "trimaps",
        "gt",
        "groundtruth",
    }
)
_TOKEN = re.compile(rf"(?P<word>{'|'.join(_WORDS)})(?P<filler>set|data|images)?(?P<year>\d*)(?P<domain>[a-d]?)")
_MASK_FILE = re.compile(  # a name with the suffix of a mask, and the stem of its image
    r"(?P<stem>.*[^/])[-_. ](masks?|seg|segmentation|gt|groundtruth|trimap|matte)([-_. ]?\d+)?\.[^./]+", re.IGNORECASE
)
_MAX_LEVELS = 4  # levels of folders that are inspected
_NAMED = 8


class SplitName(NamedTuple):
    """Split given by the name of a folder or file, and the rest of the name."""

    role: str
    rest: str


def split_of(name: str) -> SplitName | None:
    """Split given by a name, or ``None`` if it names none or several."""
    folded = re.sub(r"(hold|held)[-_ ]out", r"\1out", name.casefold())
    tokens = re.split(r"[-_. ]+", folded)
    matches = [(place, match) for place, token in enumerate(tokens) if (match := _TOKEN.fullmatch(token))]
    if len(matches) != 1:
        return None
    ((at, match),) = matches
    others = [token for place, token in enumerate(tokens) if place != at and not token.isdecimal()]
    rest = [match["domain"], *(token for token in others if token not in _FILLERS)]
    return SplitName(_WORDS[match["word"]], "-".join(filter(None, rest)))


def matches_split(name: str, requested: str) -> bool:
    """Whether a name is that of the requested split, up to synonyms: ``val`` matches ``validation``."""
    found, role = split_of(name), _WORDS.get(requested.casefold())
    return found is not None and found.role == role


def are_splits(names: Iterable[str]) -> bool:
    """Whether names are the splits of one data set: all name a split, at least two differ, and the rests agree."""
    rests: dict[str, set[str]] = {}
    for name in names:
        found = split_of(name)
        if found is None:
            return False
        rests.setdefault(found.role, set()).add(found.rest)
    largest = max(rests.values(), key=len, default=set[str]())
    return len(rests) > 1 and all(rest <= largest for rest in rests.values())


class SelectedSplit(NamedTuple):
    """Selected names, and a provenance note."""

    names: frozenset[str]
    note: str


def select_split(
    counts: Mapping[str, int], requested: str | None, location: Path, noun: str = "images"
) -> SelectedSplit | None:
    """Select the names of the requested split; ``None`` if the names are not splits, or none is requested.

    Args:
        counts: number of images (or shards) by name.
        requested: a name, ``train``, ``validation`` or ``test``, ``all``, ``none``; ``None`` for the training split.
        location: path of the data, for messages.
        noun: what is counted.

    Raises:
        UsageError: if there is no training split, or not the requested one.
    """
    if requested == NONE or not (are_splits(counts) or (requested and _matching_names(counts, requested))):
        return None
    selected = frozenset(counts) if requested == ALL else _matching_names(counts, requested or TRAIN)
    if not selected:
        what = f"no split {requested!r}" if requested else "splits, but none for training"
        raise UsageError(f"{readable(str(location))}: {what} among {_listed(counts)}; use {_choices(counts)}")
    others = {name: count for name, count in counts.items() if name not in selected}
    used = f"{_listed({name: counts[name] for name in selected})} used"
    left = f", {_listed(others)} left out" if others else ""
    as_classes = "; with data.split=none the names are classes" if noun == "images" else ""
    advice = f"{_choices(others or counts)} selects others{as_classes}"
    return SelectedSplit(selected, f"{noun} by split: {used}{left} ({advice})")


def _matching_names(counts: Mapping[str, int], requested: str) -> frozenset[str]:
    """Names that match the request, literally or as synonyms."""
    literal = frozenset(name for name in counts if name.casefold() == requested.casefold())
    meant = frozenset(name for name in counts if matches_split(name, requested))
    images = frozenset(name for name in meant if not _MASKS & set(re.split(r"[-_. ]+", name.casefold())))
    return literal or images or meant


def _listed(counts: Mapping[str, int]) -> str:
    named = [f"{readable(name)} ({count:,})" for name, count in sorted(counts.items())[:_NAMED]]
    return ", ".join(named) + (f" and {len(counts) - _NAMED} more" if len(counts) > _NAMED else "")


def _choices(counts: Mapping[str, int]) -> str:
    roles = dict.fromkeys(found.role for name in sorted(counts) if (found := split_of(name)))
    return "data.split=" + " or ".join([*(roles or map(readable, sorted(counts)[:_NAMED])), ALL])


def common_depth(folders: Iterable[str]) -> int:
    """Number of leading folders that all paths share; 0 for no paths."""
    first, *others = [folder.split("/") if folder else [] for folder in folders] or [[]]
    depth = len(first)
    for parts in others:
        depth = min(depth, len(parts))
        while first[:depth] != parts[:depth]:
            depth -= 1
    return depth


class Folders:
    """Selection of the folders of a split, and the paths of images without the folders that name splits.

    Args:
        images: relative paths of all images, with slashes.
        requested: see ``select_split``; ``none`` selects all.
        location: path of the data, for messages.

    Raises:
        UsageError: as ``select_split``.
    """

    def __init__(self, images: Sequence[str], requested: str | None, location: Path) -> None:
        self._selected = dict(Counter(name.rpartition("/")[0] for name in images))
        self._requested, self._location = requested, location
        self._replacements: dict[tuple[int, str], str] = {}  # replacement of a folder at a level in class paths
        self.notes: dict[str, str] = {}
        self._has_mask_files = False
        if requested != NONE:
            self._find_mask_files(images)
            self._select_split()
            self._select_images()
            if "splits" not in self.notes:
                self._select_split()
        if requested not in (None, ALL, NONE) and "splits" not in self.notes:
            what = f"no folder is named {requested}, and none after a split such as train or test"
            raise UsageError(f"{readable(str(location))}: data.split={requested}, but {what}; leave it out")

    @property
    def includes_all(self) -> bool:
        """Whether all images are selected, with unchanged paths."""
        return not self._replacements and not self._has_mask_files

    def includes(self, image: str) -> bool:
        """Whether an image is in a selected folder, and not the mask of an image next to it."""
        is_mask = self._has_mask_files and _MASK_FILE.fullmatch(image) is not None
        return image.rpartition("/")[0] in self._selected and not is_mask

    def class_path(self, image: str) -> str:
        """Path of an image without the folders that name splits."""
        *folders, basename = image.split("/")
        kept = (self._replacements.get((level, folder), folder) for level, folder in enumerate(folders))
        return "/".join([*filter(None, kept), basename])

    def _select_split(self) -> None:
        for level, counts, loose in self._levels():
            if loose and not self._requested and level > self._common:
                continue
            found = select_split(counts, self._requested, self._location)
            if found is not None:
                self.notes["splits"] = found.note + (f"; {loose:,} outside them left out" if loose else "")
                rests = {split_name.rest for name in found.names if (split_name := split_of(name))}
                for name in counts:
                    split_name = split_of(name)
                    self._replacements[level, name] = split_name.rest if split_name and len(rests) > 1 else ""
                self._keep(level, found.names)
                return

    def _select_images(self) -> None:
        """Select the folders named images at a level of images and masks."""
        for level, counts, loose in self._levels():
            images = frozenset(name for name in counts if _normalized(name) in _IMAGES)
            if (
                images
                and len(counts) > len(images)
                and not loose
                and all(_is_image_or_mask_folder(name) for name in counts)
            ):
                masks = {name: count for name, count in counts.items() if name not in images}
                self.notes["masks"] = (
                    f"{_listed({name: counts[name] for name in images})} used, {_listed(masks)} left out as masks or "
                    "labels of these images (with data.split=none the names are classes)"
                )
                self._replacements |= {(level, name): "" for name in images}
                self._keep(level, images)
                return

    def _find_mask_files(self, images: Sequence[str]) -> None:
        """Detect masks next to their images (``x.png``, ``x_mask.png``), if every file named like one has an image."""
        matches = filter(None, map(_MASK_FILE.fullmatch, images))
        owners = Counter(match["stem"] for match in matches)
        if not owners:
            return
        stems = {stem for name in images if (stem := name.rpartition(".")[0]) in owners}
        if len(stems) == len(owners):
            self._has_mask_files = True
            shown = readable(next(iter(owners)))
            self.notes["masks"] = (
                f"{owners.total():,} masks of images next to them left out, as of {shown} (data.split=none reads all)"
            )

    @property
    def _common(self) -> int:
        """Number of leading folders that all selected images share."""
        return common_depth(self._selected)

    def _levels(self) -> list[tuple[int, dict[str, int], int]]:
        """(level, number of images by folder name, number of images above the level) of each inspected level."""
        start = 0 if self._requested not in (None, ALL) else self._common
        found = []
        for level in range(start, start + _MAX_LEVELS):
            counts, loose = Counter[str](), 0
            for folder, count in self._selected.items():
                parts = folder.split("/") if folder else []
                if len(parts) > level:
                    counts[parts[level]] += count
                else:
                    loose += count
            if counts:
                found.append((level, dict(counts), loose))
        return found

    def _keep(self, level: int, names: frozenset[str]) -> None:
        self._selected = {
            folder: count
            for folder, count in self._selected.items()
            if len(parts := folder.split("/")) > level and parts[level] in names
        }


def _normalized(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.casefold())


def _is_image_or_mask_folder(name: str) -> bool:
    return _normalized(name) in _IMAGES | _MASKS


def select_shards(paths: Sequence[Path], requested: str | None, location: Path) -> tuple[list[Path], str]:
    """Select the shards of a split, by their names or folders, with a provenance note; all if there are none.

    Raises:
        UsageError: as ``select_split``.
    """
    by_name = {path: re.sub(r"[-_ .]*\d+$", "", path.name.partition(".")[0]) for path in paths}
    by_folder = {path: path.parent.name for path in paths}
    names = by_folder if are_splits(by_folder.values()) and not are_splits(by_name.values()) else by_name
    found = select_split(Counter(names.values()), requested, location, "shards")
    if found is None:
        return list(paths), ""
    return [path for path in paths if names[path] in found.names], found.note


def split_note(num_used: int, count: int, split: str | None) -> dict[str, str]:
    """Provenance note if only the training images were selected by default, for a data set with published splits."""
    if split is not None or num_used == count:
        return {}
    text = f"{num_used:,} of {count:,} images are for training and are used; data.split=all adds the others"
    return {"splits": text}
