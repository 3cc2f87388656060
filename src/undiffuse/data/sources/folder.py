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
        names: relative paths, with slashes.
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
    """Annotation files below a folder."""

    def __init__(self, root: Path) -> None:
        self.location, self._prefix = root, _prefix_of(root)

    def title_of(self, name: str) -> str:
        return readable(self._prefix + name)

    def read_sidecar(self, name: str, max_bytes: int) -> bytes:
        path, title = self.location / name, self.title_of(name)
        try:
            if not path.is_file():
                raise UsageError(f"{title}: not a regular file; expected a text file")
            if path.stat().st_size > max_bytes:
                raise UsageError(
                    f"{title}: {path.stat().st_size} bytes exceed the limit of {max_bytes} for a text file"
                )
            return path.read_bytes()
        except OSError as error:
            raise UsageError(f"{title}: cannot be read ({error.strerror})") from None


def _prefix_of(root: Path) -> str:
    """Prefix of the file names. (A ``Path`` per image would intern every name and cost memory.)"""
    return str(root / "x")[:-1]


def load(config: FolderConfig) -> Dataset:
    """Load the images of a folder, sorted by relative path.

    Raises:
        UsageError: if there are no images, the options do not fit, or (unless ``on_error=skip``) a file is damaged, too
            large or smaller than the training size, or lacks a label that others have; the message names the file.
    """
    root, skips = config.location, Skips(config.on_error)
    reader = FolderSidecars(root)
    names, _ = without_grids(reader, list_names(root), skips)
    found = annotate(reader, names, config, skips)
    files = FolderFiles(root, names.images.select(found.rows))
    names.left_out.add_others(found.unused)
    about = {**found.notes, **names.left_out.notes}
    return load_encoded(config, files, found.classes.labels, found.classes.names, found.captions, about, skips)
