"""Small images in the files and archives that the tests of data sources read."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from undiffuse.data import Dataset

Content = bytes | str


def pixels(seed: int, side: int = 8) -> np.ndarray:
    """(side, side, 3) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def png(seed: int, side: int = 8) -> bytes:
    """The noise of this seed as a PNG file."""
    Image.fromarray(pixels(seed, side)).save(content := io.BytesIO(), "png")
    return content.getvalue()


def is_of(dataset: Dataset, item: int, seed: int) -> bool:
    """Whether an item shows the noise of this seed."""
    return np.array_equal(dataset.items(np.array([item]))[0].transpose(1, 2, 0), pixels(seed))


def as_bytes(content: Content) -> bytes:
    return content.encode() if isinstance(content, str) else content


def write_tree(folder: Path, files: Mapping[str, Content]) -> Path:
    """These files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_bytes(content))
    return folder


def write_zip(path: Path, files: Mapping[str, Content], method: int = zipfile.ZIP_STORED) -> Path:
    """These files as members of an archive."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, as_bytes(content))
    return path


def write_tar(path: Path, files: Mapping[str, Content], form: int = tarfile.USTAR_FORMAT) -> Path:
    """These files as members of a shard, gzipped where its name says so."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w", format=form) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(as_bytes(content))
            archive.addfile(member, io.BytesIO(as_bytes(content)))
    return path


def jsonl(*records: Mapping[str, object]) -> str:
    """One object a line."""
    return "".join(json.dumps(record) + "\n" for record in records)
