"""The parts that a set is published in, by the names of its folders or files: for training, validation, test; masks.

A level of folders names the parts where **every** folder of it is called after one (``train``, ``Val``, ``test2017``,
``DIV2K_valid_HR``) and there are two different ones: a class called ``test`` among other classes is no part. What else
the names say must be the same in all parts, and is a class where it differs (``trainA``, ``trainB``, ``testA``,
``testB``). A level of ``images`` and ``masks`` (``labels``, ``annotations``) is of pairs: the images alone are taken.
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
_MASK_FILE = re.compile(  # what ends in a mask's word, and the image that it is of
    r"(?P<stem>.*[^/])[-_. ](masks?|seg|segmentation|gt|groundtruth|trimap|matte)([-_. ]?\d+)?\.[^./]+", re.IGNORECASE
)
_DEEPEST = 4  # levels of folders that are looked at
_NAMED = 8


class SplitName(NamedTuple):
    """What the name of a folder or file says: which part, and what else."""

    role: str
    rest: str


def split_of(name: str) -> SplitName | None:
    """The part that a name tells of, or ``None`` where it tells of none or of several."""
    folded = re.sub(r"(hold|held)[-_ ]out", r"\1out", name.casefold())
    tokens = re.split(r"[-_. ]+", folded)
    matches = [(place, match) for place, token in enumerate(tokens) if (match := _TOKEN.fullmatch(token))]
    if len(matches) != 1:
        return None
    ((at, match),) = matches
    others = [token for place, token in enumerate(tokens) if place != at and not token.isdecimal()]
    rest = [match["domain"], *(token for token in others if token not in _FILLERS)]
    return SplitName(_WORDS[match["word"]], "-".join(filter(None, rest)))


def means(name: str, requested: str) -> bool:
    """Whether a name is that of the part that is asked for, by what both mean: ``val`` is ``validation``."""
    found, role = split_of(name), _WORDS.get(requested.casefold())
    return found is not None and found.role == role


def are_splits(names: Iterable[str]) -> bool:
    """Whether names are those of the parts of one set: all tell of a part, of two or more, and else say the same."""
    rests: dict[str, set[str]] = {}
    for name in names:
        found = split_of(name)
        if found is None:
            return False
        rests.setdefault(found.role, set()).add(found.rest)
    largest = max(rests.values(), key=len, default=set[str]())
    return len(rests) > 1 and all(rest <= largest for rest in rests.values())


class TakenSplit(NamedTuple):
    """The names that are taken, and what to say of it."""

    names: frozenset[str]
    note: str


def take_split(
    counts: Mapping[str, int], requested: str | None, location: Path, noun: str = "images"
) -> TakenSplit | None:
    """Which of the names are those of the part that is wanted; ``None`` where they are no parts, or none is wanted.

    Args:
        counts: by name, how many there are of what is counted.
        requested: a name, ``train``, ``validation`` or ``test``, ``all``, ``none``; ``None``: the training part.
        location: of all, for messages.
        noun: what is counted.

    Raises:
        UsageError: no part for training among them, or not the one that is asked for.
    """
    if requested == NONE or not (are_splits(counts) or (requested and _wanted(counts, requested))):
        return None
    wanted = frozenset(counts) if requested == ALL else _wanted(counts, requested or TRAIN)
    if not wanted:
        what = f"no part {requested!r}" if requested else "parts, and none for training"
        raise UsageError(f"{readable(str(location))}: {what} among {_listed(counts)}; take {_choices(counts)}")
    others = {name: count for name, count in counts.items() if name not in wanted}
    taken = f"{_listed({name: counts[name] for name in wanted})} taken"
    left = f", {_listed(others)} left out" if others else ""
    as_classes = "; with data.split=none the names are classes" if noun == "images" else ""
    advice = f"{_choices(others or counts)} takes others{as_classes}"
    return TakenSplit(wanted, f"{noun} by part: {taken}{left} ({advice})")


def _wanted(counts: Mapping[str, int], requested: str) -> frozenset[str]:
    """The names that are asked for, literally or by what they mean."""
    literal = frozenset(name for name in counts if name.casefold() == requested.casefold())
    meant = frozenset(name for name in counts if means(name, requested))
    images = frozenset(name for name in meant if not _MASKS & set(re.split(r"[-_. ]+", name.casefold())))
    return literal or images or meant


def _listed(counts: Mapping[str, int]) -> str:
    named = [f"{readable(name)} ({count:,})" for name, count in sorted(counts.items())[:_NAMED]]
    return ", ".join(named) + (f" and {len(counts) - _NAMED} more" if len(counts) > _NAMED else "")


def _choices(counts: Mapping[str, int]) -> str:
    roles = dict.fromkeys(found.role for name in sorted(counts) if (found := split_of(name)))
    return "data.split=" + " or ".join([*(roles or map(readable, sorted(counts)[:_NAMED])), ALL])


def common_depth(folders: Iterable[str]) -> int:
    """How many folders paths have in common, counted from the root; 0 for no paths."""
    first, *others = [folder.split("/") if folder else [] for folder in folders] or [[]]
    depth = len(first)
    for parts in others:
        depth = min(depth, len(parts))
        while first[:depth] != parts[:depth]:
            depth -= 1
    return depth


class Folders:
    """Which folders of a set are taken, and what the path to an image says of its class once they are.

    Args:
        images: the names of all images, with slashes.
        requested: see ``take_split``; ``none`` takes all.
        location: for messages.

    Raises:
        UsageError: as ``take_split``.
    """

    def __init__(self, images: Sequence[str], requested: str | None, location: Path) -> None:
        self._kept = dict(Counter(name.rpartition("/")[0] for name in images))
        self._requested, self._location = requested, location
        self._instead: dict[tuple[int, str], str] = {}  # what a folder of a level counts for in the path to a class
        self.notes: dict[str, str] = {}
        self._has_mask_files = False
        if requested != NONE:
            self._find_mask_files(images)
            self._take_part()
            self._take_images()
            if "splits" not in self.notes:
                self._take_part()
        if requested not in (None, ALL, NONE) and "splits" not in self.notes:
            what = f"no folder is called {requested}, and none after a part such as train or test"
            raise UsageError(f"{readable(str(location))}: data.split={requested}, but {what}; leave it out")

    @property
    def all_taken(self) -> bool:
        """Whether every image is taken, by its own path."""
        return not self._instead and not self._has_mask_files

    def takes(self, image: str) -> bool:
        """Whether an image lies in a folder that is taken, and is no mask of one next to it."""
        is_mask = self._has_mask_files and _MASK_FILE.fullmatch(image) is not None
        return image.rpartition("/")[0] in self._kept and not is_mask

    def class_path(self, image: str) -> str:
        """The name of an image without the folders that name parts."""
        *folders, basename = image.split("/")
        kept = (self._instead.get((level, folder), folder) for level, folder in enumerate(folders))
        return "/".join([*filter(None, kept), basename])

    def _take_part(self) -> None:
        for level, counts, loose in self._levels():
            if loose and not self._requested and level > self._common:
                continue
            found = take_split(counts, self._requested, self._location)
            if found is not None:
                self.notes["splits"] = found.note + (f"; {loose:,} outside them left out" if loose else "")
                rests = {part.rest for name in found.names if (part := split_of(name))}
                for name in counts:
                    part = split_of(name)
                    self._instead[level, name] = part.rest if part and len(rests) > 1 else ""
                self._keep(level, found.names)
                return

    def _take_images(self) -> None:
        """Of folders called images and masks, the images."""
        for level, counts, loose in self._levels():
            images = frozenset(name for name in counts if _plain(name) in _IMAGES)
            if images and len(counts) > len(images) and not loose and all(_is_of_pairs(name) for name in counts):
                masks = {name: count for name, count in counts.items() if name not in images}
                self.notes["masks"] = (
                    f"{_listed({name: counts[name] for name in images})} taken, {_listed(masks)} left out as masks or "
                    "labels of these images (with data.split=none the names are classes)"
                )
                self._instead |= {(level, name): "" for name in images}
                self._keep(level, images)
                return

    def _find_mask_files(self, images: Sequence[str]) -> None:
        """Masks next to their images, ``x.png`` and ``x_mask.png``: all that are called so must have one."""
        matches = filter(None, map(_MASK_FILE.fullmatch, images))
        owners = Counter(match["stem"] for match in matches)
        if not owners:
            return
        there = {stem for name in images if (stem := name.rpartition(".")[0]) in owners}
        if len(there) == len(owners):
            self._has_mask_files = True
            shown = readable(next(iter(owners)))
            self.notes["masks"] = (
                f"{owners.total():,} masks of images next to them left out, as of {shown} (data.split=none takes all)"
            )

    @property
    def _common(self) -> int:
        """How many folders all the images that are kept have in common."""
        return common_depth(self._kept)

    def _levels(self) -> list[tuple[int, dict[str, int], int]]:
        """(level, images by the name of its folder, images that lie above it) of each level that is looked at."""
        start = 0 if self._requested not in (None, ALL) else self._common
        found = []
        for level in range(start, start + _DEEPEST):
            counts, loose = Counter[str](), 0
            for folder, count in self._kept.items():
                parts = folder.split("/") if folder else []
                if len(parts) > level:
                    counts[parts[level]] += count
                else:
                    loose += count
            if counts:
                found.append((level, dict(counts), loose))
        return found

    def _keep(self, level: int, names: frozenset[str]) -> None:
        self._kept = {
            folder: count
            for folder, count in self._kept.items()
            if len(parts := folder.split("/")) > level and parts[level] in names
        }


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.casefold())


def _is_of_pairs(name: str) -> bool:
    return _plain(name) in _IMAGES | _MASKS


def take_shards(paths: Sequence[Path], requested: str | None, location: Path) -> tuple[list[Path], str]:
    """The shards of the part that is wanted, by their names or folders, and what to say of it; all without parts.

    Raises:
        UsageError: as ``take_split``.
    """
    by_name = {path: re.sub(r"[-_ .]*\d+$", "", path.name.partition(".")[0]) for path in paths}
    by_folder = {path: path.parent.name for path in paths}
    names = by_folder if are_splits(by_folder.values()) and not are_splits(by_name.values()) else by_name
    found = take_split(Counter(names.values()), requested, location, "shards")
    if found is None:
        return list(paths), ""
    return [path for path in paths if names[path] in found.names], found.note


def split_note(taken: int, count: int, split: str | None) -> dict[str, str]:
    """What to say where the images for training were taken of a set whose parts its authors list, unasked."""
    if split is not None or taken == count:
        return {}
    text = f"{taken:,} of {count:,} images are for training and are taken; data.split=all takes the others too"
    return {"splits": text}
