"""Survey of the files of a folder: readability, storage mode and size of each."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from undiffuse.cores import num_cores
from undiffuse.data.config import FolderConfig
from undiffuse.data.readers.decoding.image import decode_image, without_warnings
from undiffuse.data.sources.folder import FolderSidecars
from undiffuse.data.sources.layout.folder_files import list_names
from undiffuse.data.sources.layout.sample_sets import without_grids
from undiffuse.data.sources.layout.splits import Folders
from undiffuse.data.storage.skips import Skips
from undiffuse.errors import UsageError
from undiffuse.observer import SILENT, Observer

_BLOCK = 256


@dataclass(frozen=True)
class Entry:
    """A readable file: name, Pillow mode, whether rotated, the decoder's notes, upright height and width."""

    name: str
    mode: str
    turned: bool
    notes: tuple[str, ...]
    height: int
    width: int


@dataclass(frozen=True)
class Survey:
    """The training images of a folder: readable files, and the reasons why others are unreadable."""

    entries: list[Entry]
    broken: dict[str, str]

    @property
    def transparent(self) -> float:
        """Fraction of the files with an alpha channel."""
        return sum("alpha" in kinds(entry.mode) for entry in self.entries) / max(len(self.entries), 1)


def survey_folder(config: FolderConfig, observer: Observer = SILENT) -> Survey:
    """Decode every file used for training.

    Raises:
        UsageError: no such folder, or no image files in it.
    """
    root = config.location
    images = without_grids(FolderSidecars(root), list_names(root), Skips("skip"))[0].images
    names = list(filter(Folders(images, config.split, root).includes, images))
    entries, broken = [], {}
    with without_warnings(), closing(_inspected(root, names, config)) as inspected:
        for number, (name, found) in enumerate(zip(names, inspected, strict=True)):
            if isinstance(found, Entry):
                entries.append(found)
            else:
                broken[name] = found
            if number % _BLOCK == 0:
                observer.progress(number, len(names))
    return Survey(entries, broken)


def _inspected(root: Path, names: list[str], config: FolderConfig) -> Generator[Entry | str, None, None]:
    def attempt(name: str) -> Entry | str:
        try:
            found = decode_image(root / name, config.background)
        except UsageError as error:
            return str(error).removeprefix(f"{root / name}: ")
        return Entry(name, found.mode, found.rotated, found.notes, found.image.height, found.image.width)

    with ThreadPoolExecutor(max_workers=min(8, num_cores())) as pool:
        for start in range(0, len(names), _BLOCK):
            yield from pool.map(attempt, names[start : start + _BLOCK])


def kinds(mode: str) -> Iterator[str]:
    """Special properties of files with a Pillow mode, such as ``alpha`` or ``palette``."""
    if mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        yield "alpha"
    if mode in ("P", "PA"):
        yield "palette"
    if mode == "I" or mode.startswith("I;"):
        yield "sixteen"
    simple = {"F": "float", "CMYK": "cmyk", "LAB": "lab", "1": "bilevel"}
    if mode in simple:
        yield simple[mode]
