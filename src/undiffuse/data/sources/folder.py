"""A folder of images as a data set."""

from __future__ import annotations

from pathlib import Path

from undiffuse.data.config import FolderConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.readers.text import readable
from undiffuse.data.sources.layout.captions import SidecarReader, annotate
from undiffuse.data.sources.layout.folder_files import list_names
from undiffuse.data.sources.layout.sample_sets import without_grids
from undiffuse.data.storage.encoded import load_encoded
from undiffuse.data.storage.encoded_files import EncodedFiles
from undiffuse.data.storage.skips import Skips
from undiffuse.data.storage.string_array import StringArray
from undiffuse.errors import UsageError


class FolderFiles(EncodedFiles):
    """Files below a folder.

    Args:
        root: the folder.
        names: paths below it, with slashes.
    """

    def __init__(self, root: Path, names: StringArray) -> None:
        super().__init__(root)
        self._names, self._prefix = names, _prefix_of(root)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> bytes:
        try:
            return self.source(index).read_bytes()
        except OSError as error:
            raise UsageError(f"{self.title(index)}: cannot be read ({error.strerror})") from None

    def title(self, index: int) -> str:
        return readable(self._prefix + self._names[index])

    def source(self, index: int) -> Path:
        return self.location / self._names[index]


class FolderSidecars(SidecarReader):
    """Small files below a folder."""

    def __init__(self, root: Path) -> None:
        self.location, self._prefix = root, _prefix_of(root)

    def title_of(self, name: str) -> str:
        return readable(self._prefix + name)

    def read_sidecar(self, name: str, most: int) -> bytes:
        path, title = self.location / name, self.title_of(name)
        try:
            if not path.is_file():
                raise UsageError(f"{title}: no plain file; expected a text")
            if path.stat().st_size > most:
                raise UsageError(
                    f"{title}: {path.stat().st_size} bytes are more than the {most} that are read of a text"
                )
            return path.read_bytes()
        except OSError as error:
            raise UsageError(f"{title}: cannot be read ({error.strerror})") from None


def _prefix_of(root: Path) -> str:
    """What stands before a name in the path of its file. A ``Path`` per image would fill Python's table of names."""
    return str(root / "x")[:-1]


def load(config: FolderConfig) -> Dataset:
    """The images of a folder, in the sorted order of their relative paths.

    Raises:
        UsageError: no images, options that do not fit them, or (unless ``on_error=skip``) a file that is damaged,
            too large or smaller than the training size, or lacks what others have; the message names the file.
    """
    root, skips = config.location, Skips(config.on_error)
    reader = FolderSidecars(root)
    names, _ = without_grids(reader, list_names(root), skips)
    found = annotate(reader, names, config, skips)
    files = FolderFiles(root, names.images.select(found.rows))
    names.left_out.add_others(found.unread)
    about = {**found.notes, **names.left_out.notes}
    return load_encoded(config, files, found.classes.labels, found.classes.names, found.captions, about, skips)
