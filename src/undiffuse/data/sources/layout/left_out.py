"""What a reader finds and does not take, counted and named by kind: one account for all sources.

What may be missed (images of a format that is not read, further images of a sample, archives within) is warned of
when a set is opened, under ``left_out`` of its provenance; what nobody misses (texts, hidden files) stands
under ``passed_over`` and is shown by ``data info`` alone. What is wrong with the data is an error, see ``skips``.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from typing import NamedTuple

from undiffuse.data.readers.decoding import heic
from undiffuse.data.readers.text import readable

LEFT_OUT, PASSED_OVER = "left_out", "passed_over"
_NAMED = 3  # of each kind; the rest is counted


class Kind(NamedTuple):
    """What to say of some files of one kind.

    Args:
        one, several: what they are.
        advice: what to do, if anything.
        warned: whether a warning names it when a set is opened.
    """

    one: str
    several: str
    advice: str = ""
    warned: bool = True


OTHER_FORMAT = Kind("image of a format that is not read", "images of formats that are not read", "convert to PNG")
HEIC = Kind("HEIC image", "HEIC images", heic.ADVICE)
VIDEO = Kind("video", "videos", "save its frames as images")
LIST = Kind("list that is not read", "lists that are not read", "save it as metadata.csv or metadata.jsonl")
ARCHIVE = Kind("archive within", "archives within", "unpack them here, or name one alone, if images are in them")
ARCHIVE_BEFORE = Kind(
    "archive before the last in the file", "archives before the last", "keep them in files of their own"
)
FURTHER = Kind("further image of a sample", "further images of samples", "data.image_column=ENDING takes another")
REPEATED = Kind("file of a name that comes again later", "files of names that come again later")
UNREAD_IMAGE = Kind("image next to what is read", "images next to what is read", "folder:PATH reads images alone")
UNREAD_FOLDER = Kind("folder next to what is read", "folders next to what is read", "name it alone to read it")
NOT_OF_THE_SET = Kind("image that is none of the set's", "images that are none of the set's", "folder:PATH takes all")
FOLDER_AGAIN = Kind("link to a folder that is read already", "links to folders that are read already", warned=False)
OTHER = Kind("file without an image's ending", "files without an image's ending", warned=False)
HIDDEN = Kind("hidden file or folder", "hidden files or folders", warned=False)
LINK = Kind("link", "links", "links in archives are not followed")

_OTHER_FORMATS = frozenset(
    {
        "jxl",
        "svg",
        "svgz",
        "psd",
        "ai",
        "eps",
        "exr",
        "hdr",
        "dds",
        "ico",
        "icns",
        "raw",
        "dng",
        "cr2",
        "cr3",
        "nef",
        "arw",
        "orf",
        "rw2",
        "raf",
        "pef",
        "srw",
        "jxr",
        "wdp",
        "bpg",
        "flif",
        "qoi",
        "xcf",
        "kra",
    }
)
_VIDEOS = frozenset({"mp4", "m4v", "mov", "avi", "mkv", "webm", "mpg", "mpeg", "wmv", "flv"})
_ARCHIVES = frozenset({"zip", "tar", "tgz", "gz", "7z", "rar", "bz2", "tbz2", "xz", "txz", "zst"})


def kind_of(name: str) -> Kind:
    """What a file is that no reader takes, by its name."""
    stem, _, ending = name.rpartition("/")[2].lower().rpartition(".")
    if stem == "metadata" and ending in ("parquet", "tsv", "xlsx"):
        return LIST
    if ending in heic.ENDINGS:
        return HEIC
    if ending in _OTHER_FORMATS:
        return OTHER_FORMAT
    return VIDEO if ending in _VIDEOS else ARCHIVE if ending in _ARCHIVES else OTHER


class LeftOut:
    """Counts and names what is left out, by kind; a few names per kind are kept, however many files there are."""

    def __init__(self) -> None:
        self._counts: dict[Kind, int] = {}
        self._names: dict[Kind, list[str]] = {}

    def add(self, kind: Kind, name: str) -> None:
        """One more file."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        names = self._names.setdefault(kind, [])
        insort(names, name)  # the first by name, in whatever order a file system lists them
        del names[_NAMED:]

    def add_others(self, names: Iterable[str]) -> None:
        """Files that are no images to any reader, each of the kind that its name says."""
        for name in names:
            self.add(kind_of(name), name)

    def count_of(self, kind: Kind) -> int:
        """How many there are of a kind."""
        return self._counts.get(kind, 0)

    def text(self, warned: bool, advice: bool = True) -> str:
        """What is warned of, or what is not: each kind with its count, some names and what to do about it."""
        kinds = sorted((kind for kind in self._counts if kind.warned == warned), key=lambda kind: kind.several)
        return "; ".join(self._of_kind(kind, advice) for kind in kinds)

    @property
    def notes(self) -> dict[str, str]:
        """For a set's provenance."""
        texts = {LEFT_OUT: self.text(warned=True), PASSED_OVER: self.text(warned=False)}
        return {key: text for key, text in texts.items() if text}

    def _of_kind(self, kind: Kind, with_advice: bool) -> str:
        count, names = self._counts[kind], self._names[kind]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        advice = f" ({kind.advice})" if kind.advice and with_advice else ""
        return f"{count:,} {kind.one if count == 1 else kind.several}: {', '.join(map(readable, names))}{more}{advice}"
