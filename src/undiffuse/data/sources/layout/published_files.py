"""Detection of published data sets and tables of images from their content. Imports neither torch nor numpy.

A damaged file is detected by its name, so that its reader can report the error.
"""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from undiffuse.data.config.published import ATTRIBUTE_LISTS
from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.sources.layout.splits import are_splits, split_of
from undiffuse.data.sources.layout.tar_files import BLOCK, has_checksum
from undiffuse.data.sources.layout.zip_files import looks_like_zip
from undiffuse.errors import UsageError

CIFAR_BINARY = re.compile(r"(?P<split>data_batch|train|test)(_batch|_\d+)?[^/]*\.bin")
CIFAR_PYTHON = re.compile(r"(?P<split>data_batch_\d+|train|test_batch|test)")
CIFAR_NAMES = {"batches.meta.txt", "batches.meta", "meta", "fine_label_names.txt", "coarse_label_names.txt"}
TABLES = (".parquet", ".arrow")
_CIFAR_RECORDS = (
    (3073, (10,)),
    (3074, (20, 100)),
)  # record size in bytes, and the number of classes of each leading byte
_FFHQ = re.compile(r"ffhq|images1024x1024|thumbnails128x128|in-the-wild-images", re.IGNORECASE)
_MAX_INSPECTED = 2000  # limit for members of an archive and entries of a folder


def looks_like_cifar(path: Path) -> bool:
    """Whether a file is a batch of CIFAR, binary or Python, or the published archive of them."""
    name = path.name.lower()
    if name.endswith((".tar.gz", ".tgz", ".tar")):
        return name.startswith("cifar-10") or any(member.startswith("cifar-10") for member in _first_members(path))
    if name.endswith(".bin"):
        return bool(CIFAR_BINARY.fullmatch(name)) or _has_cifar_records(path)
    return bool(CIFAR_PYTHON.fullmatch(name)) and _starts_with(path, b"\x80\x02")


def has_cifar_files(folder: Path) -> bool:
    """Whether a folder, or a subfolder named like CIFAR's, contains such batches."""
    return any(map(_is_cifar_folder, [folder, *sorted(folder.glob("cifar-10*-*"))]))


def looks_like_emnist(path: Path) -> bool:
    """Whether a file is a MATLAB 5.0 file; only EMNIST's are supported."""
    return _starts_with(path, b"MATLAB 5.0 MAT-file") or path.suffix.lower() == ".mat"


def looks_like_arrays(path: Path) -> bool:
    """Whether a file is a NumPy array or a zip of arrays."""
    if _starts_with(path, b"\x93NUMPY") or path.suffix.lower() in (".npy", ".npz"):
        return True
    return looks_like_zip(path) and next(_names_in_zip(path), "").endswith(".npy")


def looks_like_table(path: Path) -> bool:
    """Whether a file is a Parquet or Arrow table."""
    return path.suffix.lower() in TABLES or _starts_with(path, b"PAR1") or _starts_with(path, b"ARROW1")


def has_tables(folder: Path) -> bool:
    """Whether a folder contains tables, directly, in the folder ``data`` or in folders of splits."""
    return any(is_table(path) for place in table_folders(folder) for path in place.iterdir())


def is_table(path: Path) -> bool:
    """Whether a file is named like a table; ``metadata.parquet``, a list of images next to it, is not one."""
    name = path.name.lower()
    return path.suffix.lower() in TABLES and name != "metadata.parquet" and name[0] != "." and path.is_file()


def table_folders(folder: Path) -> list[Path]:
    """Folders searched for tables: the folder itself, ``data``, and the folders of splits, saved or named as such."""
    saved = {path.parent for path in folder.glob("*/dataset_info.json")}
    inner = [path for path in folder.iterdir() if path.is_dir() and split_of(path.name) is not None]
    named = {path for path in inner if any(map(is_table, itertools.islice(path.iterdir(), _MAX_INSPECTED)))}
    named = named if are_splits(path.name for path in named) else set()
    return [folder, *(place for place in (folder / "data",) if place.is_dir()), *sorted(saved | named)]


def looks_like_lmdb(path: Path) -> bool:
    """Whether a file is an LMDB database, by its name or its magic number."""
    return path.name == "data.mdb" or _starts_with(path, b"\xde\xc0\xef\xbe", 16)


def has_lmdb(folder: Path) -> bool:
    """Whether a folder is an LMDB database or contains some."""
    return (folder / "data.mdb").is_file() or any(folder.glob("*_lmdb/data.mdb"))


def has_emoji(folder: Path) -> bool:
    """Whether a folder has the layout of emoji-datasource."""
    return any((root / "emoji.json").is_file() and (root / "img").is_dir() for root in (folder, folder / "package"))


def looks_like_emoji(path: Path) -> bool:
    """Whether an archive has the layout of emoji-datasource; a tar is detected by its name."""
    if not looks_like_zip(path):
        return path.name.startswith("emoji-datasource") and path.name.endswith((".tgz", ".tar.gz", ".tar"))
    return any(name.rpartition("/")[2] == "emoji.json" for name in _names_in_zip(path))


def has_celeba(folder: Path) -> bool:
    """Whether a folder contains CelebA's or CelebA-HQ's list of attributes, or is the folder of images next to it."""
    places = (folder, folder.parent) if folder.name in ("img_align_celeba", "CelebA-HQ-img") else (folder,)
    return (folder / "img_align_celeba").is_dir() or any(
        (place / name).is_file() for place in places for name in ATTRIBUTE_LISTS
    )


def looks_like_celeba(path: Path) -> bool:
    """Whether an archive contains CelebA's images."""
    return looks_like_zip(path) and any("img_align_celeba/" in name for name in _names_in_zip(path))


def has_ffhq(folder: Path) -> bool:
    """Whether a folder is FFHQ's, by its name or those of its folders, with images named by numbers."""
    named = [folder] if _FFHQ.search(folder.name) else []
    inner = [path for path in folder.iterdir() if path.is_dir() and _FFHQ.search(path.name)]
    return any(next(root.glob(pattern), None) for root in named + inner for pattern in _FFHQ_PATTERNS)


_DIGITS = "[0-9]" * 5
_FFHQ_PATTERNS = (f"{_DIGITS}.png", f"{_DIGITS}/{_DIGITS}.png")


def looks_like_ffhq(path: Path) -> bool:
    """Whether an archive is FFHQ's, by its name or those of its folders, with images named by numbers."""
    if not looks_like_zip(path):
        return False
    numbered = re.compile(r"(.*/)?\d{5}\.png")
    names = [name for name in _names_in_zip(path) if numbered.fullmatch(name)]
    return bool(names) and bool(_FFHQ.search(path.name) or _FFHQ.search(names[0]))


def _is_cifar_folder(folder: Path) -> bool:
    """Whether a folder contains CIFAR data batches, or files named train and test with lists of class names."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    if any(re.fullmatch(r"(data|test)_batch.*", name) and Path(name).suffix in ("", ".bin") for name in names):
        return True
    return bool(names & CIFAR_NAMES) and bool(names & {"train", "test", "train.bin", "test.bin"})


def _has_cifar_records(path: Path) -> bool:
    """Whether a file consists of whole records whose leading bytes are class indices."""
    size = path.stat().st_size
    for length, counts in _CIFAR_RECORDS:
        if size and size % length == 0:
            with path.open("rb") as file:
                records = [file.read(length) for _ in range(min(size // length, _MAX_INSPECTED // 10))]
            if all(record[place] < count for record in records for place, count in enumerate(counts)):
                return True
    return False


def _starts_with(path: Path, magic: bytes, offset: int = 0) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(len(magic)) == magic
    except OSError:
        return False


def _first_members(path: Path) -> list[str]:
    """Names in the first blocks of a tar archive, gzipped or not; extended headers may precede that of a member."""
    try:
        with gzip.open(path) if _starts_with(path, b"\x1f\x8b") else path.open("rb") as file:
            blocks = [file.read(BLOCK) for _ in range(8)]
    except (OSError, EOFError, zlib.error):
        return []
    return [block[:100].partition(b"\0")[0].decode("latin-1") for block in blocks if has_checksum(block)]


def _names_in_zip(path: Path) -> Iterator[str]:
    """Names of the first members; stops at damage, which the reader of the archive reports."""
    from undiffuse.data.readers.zip_index import read_entries  # imports numpy, which parsing a source name must not

    try:
        for entry in itertools.islice(read_entries(FileAt(path)), _MAX_INSPECTED):
            yield entry.name
    except UsageError:
        return
