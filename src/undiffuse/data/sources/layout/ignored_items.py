"""Counts of the files that a reader ignores, by kind, for all sources.

Files that a user may expect to be read (images of an unsupported format, further images of a sample, nested archives)
cause a warning when a data set is opened, and are listed under ``left_out`` in its provenance; other files (texts,
hidden files) are listed under ``passed_over``, which only ``data info`` shows. Invalid data is an error, see ``skips``.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from typing import NamedTuple

from undiffuse.data.readers.decoding import heic
from undiffuse.data.readers.text import readable

LEFT_OUT, PASSED_OVER = "left_out", "passed_over"
_NUM_NAMES = 3  # listed per kind; the others are counted


class Kind(NamedTuple):
    """Description of a kind of files.

    Args:
        singular, plural: description of one file and of several.
        advice: what the user can do, if anything.
        warned: whether opening a data set warns about such files.
    """

    singular: str
    plural: str
    advice: str = ""
    warned: bool = True


OTHER_FORMAT = Kind("image of a format that is not read", "images of formats that are not read", "convert to PNG")
HEIC = Kind("HEIC image", "HEIC images", heic.ADVICE)
VIDEO = Kind("video", "videos", "save its frames as images")
LIST = Kind("list that is not read", "lists that are not read", "save it as metadata.csv or metadata.jsonl")
ARCHIVE = Kind("nested archive", "nested archives", "unpack them here, or name one of them, if they contain images")
ARCHIVE_BEFORE = Kind("archive before the last in the file", "archives before the last", "store them in separate files")
FURTHER = Kind("further image of a sample", "further images of samples", "data.image_column=ENDING selects another")
REPEATED = Kind("file whose name is repeated later", "files whose names are repeated later")
UNREAD_IMAGE = Kind(
    "image outside the data that is read", "images outside the data that is read", "folder:PATH reads only images"
)
UNREAD_FOLDER = Kind(
    "folder outside the data that is read", "folders outside the data that is read", "name it to read it"
)
NOT_OF_THE_SET = Kind("image not of the data set", "images not of the data set", "folder:PATH reads all")
FOLDER_AGAIN = Kind("link to a folder that is already read", "links to folders that are already read", warned=False)
OTHER = Kind("file without an image extension", "files without an image extension", warned=False)
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
    """Kind of a file that no reader reads, judged by its name."""
    stem, _, ending = name.rpartition("/")[2].lower().rpartition(".")
    if stem == "metadata" and ending in ("parquet", "tsv", "xlsx"):
        return LIST
    if ending in heic.ENDINGS:
        return HEIC
    if ending in _OTHER_FORMATS:
        return OTHER_FORMAT
    return VIDEO if ending in _VIDEOS else ARCHIVE if ending in _ARCHIVES else OTHER


class IgnoredItems:
    """Counts ignored files by kind, with the first few names of each kind."""

    def __init__(self) -> None:
        self._counts: dict[Kind, int] = {}
        self._names: dict[Kind, list[str]] = {}

    def add(self, kind: Kind, name: str) -> None:
        """Add a file."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        names = self._names.setdefault(kind, [])
        insort(names, name)  # the first by name, independent of the order of the file system
        del names[_NUM_NAMES:]

    def add_others(self, names: Iterable[str]) -> None:
        """Add files that no reader reads, each with the kind given by its name."""
        for name in names:
            self.add(kind_of(name), name)

    def count_of(self, kind: Kind) -> int:
        """Number of files of a kind."""
        return self._counts.get(kind, 0)

    def text(self, warned: bool, advice: bool = True) -> str:
        """Description of the kinds with or without a warning: each with its count, a few names and advice."""
        kinds = sorted((kind for kind in self._counts if kind.warned == warned), key=lambda kind: kind.plural)
        return "; ".join(self._of_kind(kind, advice) for kind in kinds)

    @property
    def notes(self) -> dict[str, str]:
        """Notes for the provenance of a data set."""
        texts = {LEFT_OUT: self.text(warned=True), PASSED_OVER: self.text(warned=False)}
        return {key: text for key, text in texts.items() if text}

    def _of_kind(self, kind: Kind, with_advice: bool) -> str:
        count, names = self._counts[kind], self._names[kind]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        advice = f" ({kind.advice})" if kind.advice and with_advice else ""
        return (
            f"{count:,} {kind.singular if count == 1 else kind.plural}: {', '.join(map(readable, names))}{more}{advice}"
        )
