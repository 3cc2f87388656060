"""Finding the tar shards of a path or pattern. Imports neither torch nor numpy.

A pattern contains braces as in WebDataset, ``x-{000000..000009}.tar`` or ``{a,b}.tar``, or shell wildcards.
"""

from __future__ import annotations

import glob
import gzip
import re
import zlib
from pathlib import Path

from undiffuse.data.sources.layout.splits import are_splits, split_of
from undiffuse.errors import UsageError

ENDINGS = (".tar", ".tar.gz", ".tgz")
BLOCK = 512
MAX_SHARDS = 100_000
_BRACES = re.compile(r"\{(?P<inside>[^{}]*)\}")
_RANGE = re.compile(r"(?P<first>\d+)\.\.(?P<last>\d+)")


def find_shards(path: Path) -> list[Path]:
    """Find the shards in order: by name for a folder or wildcard, as written for braces.

    Raises:
        UsageError: if there are none.
    """
    if path.is_dir():
        shards = shards_in(path)
        if not shards:
            raise UsageError(f"{path}: no tar shards in this folder; expected files that end in {', '.join(ENDINGS)}")
        return shards
    if path.exists() or not is_pattern(str(path)):
        return [path]
    found: list[Path] = []
    for text in _expanded(str(path)):
        matches = sorted(glob.glob(text)) if glob.has_magic(text) else [text]  # noqa: PTH207 (absolute patterns)
        found += map(Path, matches)
    if not found:
        raise UsageError(f"{path}: no file matches this pattern; check it")
    return found


def shards_in(folder: Path) -> list[Path]:
    """Tar files directly in a folder, by name; if there are none, those in its folders train, test and so on."""
    direct = _shards_directly_in(folder)
    if direct:
        return direct
    named = sorted(path for path in folder.iterdir() if path.is_dir() and split_of(path.name) is not None)
    inner = {path: found for path in named if (found := _shards_directly_in(path))}
    return [path for found in inner.values() for path in found] if are_splits(path.name for path in inner) else []


def _shards_directly_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if _is_shard_name(path.name) and path.is_file())
    except OSError:
        return []


def is_explicit(path: Path) -> bool:
    """Whether a path names its shards explicitly: one file, or a pattern of braces only."""
    return not path.is_dir() and not (is_pattern(str(path)) and not path.exists() and glob.has_magic(str(path)))


def is_pattern(text: str) -> bool:
    """Whether a string has braces or wildcards."""
    return bool(_BRACES.search(text)) or glob.has_magic(text)


def names_shards(text: str) -> bool:
    """Whether a string is a pattern for names of tar files."""
    return is_pattern(text) and text.lower().endswith((*ENDINGS, ".tar}", "*"))


def looks_like_tar(path: Path) -> bool:
    """Whether a file starts like a tar archive, gzipped or not."""
    try:
        with path.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if gzipped else path.open("rb") as file:
            return has_checksum(file.read(BLOCK))
    except (OSError, EOFError, zlib.error):
        return _is_shard_name(path.name)  # damaged, but named like one: the reader reports the error


def has_checksum(block: bytes) -> bool:
    """Whether a block of 512 bytes is a tar header: the sum of its bytes matches its checksum."""
    stated = block[148:156].strip(b" \0")
    if len(block) < BLOCK or not stated or set(stated) - set(b"01234567"):
        return False
    return int(stated, 8) == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _is_shard_name(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def _expanded(pattern: str) -> list[str]:
    """Expand the braces of a pattern, in the order of a shell."""
    texts = [pattern]
    while any(map(_BRACES.search, texts)):
        longer: list[str] = []
        for text in texts:
            longer += _first_expanded(text)
            if len(longer) > MAX_SHARDS:
                raise UsageError(f"{pattern}: more than {MAX_SHARDS} files; select fewer")
        texts = longer
    return texts


def _first_expanded(text: str) -> list[str]:
    match = _BRACES.search(text)
    if match is None:
        return [text]
    before, after = text[: match.start()], text[match.end() :]
    if "{" in before:
        raise UsageError(f"{text}: nested braces; use a pattern without them")
    return [before + option + after for option in _choices(match["inside"], text)]


def _choices(inside: str, text: str) -> list[str]:
    match = _RANGE.fullmatch(inside)
    if match is None:
        return inside.split(",")
    first, last = int(match["first"]), int(match["last"])
    if not 0 <= last - first < MAX_SHARDS:
        raise UsageError(
            f"{text}: {{{inside}}} is not a range of 1 to {MAX_SHARDS} numbers; write the smaller one first"
        )
    return [f"{number:0{len(match['first'])}}" for number in range(first, last + 1)]
