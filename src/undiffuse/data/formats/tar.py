"""Tar shards of pictures as a data set, read in place.

The convention is WebDataset's: members that share a key (all of the name before the first dot of its last part) and
follow each other are one sample, with the picture (``.jpg``, ``.png`` ...), its class (``.cls``), its caption
(``.txt``) and more of either in ``.json``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from undiffuse.data import encoded
from undiffuse.data.config import TarConfig
from undiffuse.data.encoded import EncodedFiles, Skips, load_encoded
from undiffuse.data.formats.captions import complete_rows, is_document
from undiffuse.data.formats.classes import Classes, LabelColumn, depth_remark, folder_classes
from undiffuse.data.formats.file_at import FileAt
from undiffuse.data.formats.folder_files import is_picture, is_shown
from undiffuse.data.formats.metadata import MAX_NOTE_BYTES, Said, caption_text, parse_json, said_in
from undiffuse.data.formats.tar_files import find_shards
from undiffuse.data.formats.tar_index import Member, MemoryAt, OpenedEachTime, Place, read_members
from undiffuse.data.source import Dataset, Indices
from undiffuse.data.texts import Texts
from undiffuse.errors import UsageError

MAX_PICTURE_BYTES = 2**28
_MOST_OPEN = 256  # shards; more are opened for each reading
_NOTES = ("cls", "txt", "json")


class TarFiles(EncodedFiles):
    """The pictures of samples in shards.

    Args:
        location: what the user named.
        shards: where to read.
        names: of the members.
        table: (N, 3) int64: number of the shard, offset, size.
    """

    def __init__(self, location: Path, shards: Sequence[Place], names: Texts, table: npt.NDArray[np.int64]) -> None:
        super().__init__(location)
        self._shards, self._names, self._table = shards, names, table

    def __len__(self) -> int:
        return len(self._names)

    def title(self, index: int) -> str:
        return f"{self._shards[self._table[index, 0]].path}!{self._names[index]}"

    def read(self, index: int) -> bytes:
        shard, offset, size = (int(number) for number in self._table[index])
        content = self._shards[shard].read(offset, size)
        if len(content) != size:
            raise UsageError(f"{self.title(index)}: cut short: the shard is shorter than it was; fetch it again")
        return content

    def release(self) -> None:
        for shard in self._shards:
            shard.close()


class _Samples:
    """The samples of all shards, in columns: 24 bytes of place, 16 of label and caption, and the names."""

    def __init__(self, config: TarConfig, skips: Skips) -> None:
        self._skips = skips
        self._wants_labels, self._wants_captions = config.labels == "auto", config.captions == "auto"
        self.names, self.captions, self.column = Texts(), Texts(), LabelColumn()
        self.places, self.codes, self.caption_of = array("q"), array("q"), array("q")
        self.num_others = self.num_links = 0

    def add_shard(self, number: int, shard: Place) -> None:
        """Take up the samples of one shard; those before its damage where it is skipped."""
        seen: set[int] = set()
        try:
            for key, members in _grouped(self._relevant(shard)):
                try:
                    if hash(key) in seen:
                        raise UsageError(f"{shard.path}!{key}: there are two samples of this key")
                    seen.add(hash(key))
                    self._add(number, shard, key, members)
                except UsageError as error:
                    self._skips.take(error)
        except UsageError as error:
            self._skips.take(error)

    def _relevant(self, shard: Place) -> Iterator[Member]:
        """Pictures and notes with their names cleaned; the rest is counted."""
        for member in read_members(shard):
            parts = [part for part in member.name.replace("\\", "/").split("/") if part != "."] or [""]
            if not member.is_plain:
                self.num_links += 1
            elif not is_picture(parts[-1]) and _ending(parts[-1]) not in _NOTES:
                self.num_others += 1
            elif ".." in parts or parts[0] == "":
                where = f"{shard.path}!{member.name!r}"
                self._skips.take(
                    UsageError(f"{where}: the member's name leads out of the shard; expected one below it")
                )
            elif not all(map(is_shown, parts)) or is_document(parts[-1]):
                self.num_others += 1
            else:
                yield member._replace(name="/".join(parts))

    def _add(self, number: int, shard: Place, key: str, members: dict[str, list[Member]]) -> None:
        picture = _picture_of(members, f"{shard.path}!{key}")
        title = f"{shard.path}!{picture.name}"
        if picture.size > MAX_PICTURE_BYTES:
            raise UsageError(f"{title}: {picture.size} bytes are more than the {MAX_PICTURE_BYTES} read of a picture")
        said = _said(shard, members)
        code = self.column.code(said.label, title) if self._wants_labels and said.label is not None else -1
        self.names.append(picture.name)
        self.places.extend((number, picture.offset, picture.size))
        self.codes.append(code)
        has_caption = self._wants_captions and said.caption is not None
        self.caption_of.append(len(self.captions) if has_caption else -1)
        if has_caption:
            self.captions.append(str(said.caption))


def _ending(basename: str) -> str:
    """All after the first dot, as WebDataset takes it."""
    return basename.partition(".")[2].lower()


def _grouped(members: Iterator[Member]) -> Iterator[tuple[str, dict[str, list[Member]]]]:
    """(key, members by ending) of each run of members that share a key."""
    running, group = "", dict[str, list[Member]]()
    for member in members:
        folder, slash, basename = member.name.rpartition("/")
        key = folder + slash + basename.partition(".")[0]
        if group and key != running:
            yield running, group
            group = {}
        running = key
        group.setdefault(_ending(basename), []).append(member)
    if group:
        yield running, group


def _picture_of(members: dict[str, list[Member]], title: str) -> Member:
    """The member ``key.png``; where there is none, the one of a longer ending such as ``key.v1.png``."""
    plain = [
        member
        for ending, found in members.items()
        if is_picture(f"x.{ending}") and "." not in ending
        for member in found
    ]
    longer = [member for ending, found in members.items() if "." in ending for member in found]
    pictures = plain or longer
    if not pictures:
        raise UsageError(f"{title}: a sample without a picture (it has .{', .'.join(members)})")
    if len(pictures) > 1:
        raise UsageError(f"{title}: a sample with {len(pictures)} pictures; expected one")
    return pictures[0]


def _said(shard: Place, members: dict[str, list[Member]]) -> Said:
    """Class and caption of a sample; ``.cls`` and ``.txt`` count before ``.json``."""
    said, texts = Said(None, None), dict[str, bytes]()
    for ending in _NOTES:
        for member in members.get(ending, []):
            title = f"{shard.path}!{member.name}"
            if member.size > MAX_NOTE_BYTES or ending in texts:
                what = "is there twice" if ending in texts else f"has {member.size} bytes; expected a short text"
                raise UsageError(f"{title}: {what}")
            texts[ending] = shard.read(member.offset, member.size)
    base = f"{shard.path}!"
    if "json" in texts:
        title = base + members["json"][0].name
        said = said_in(parse_json(texts["json"], title), title)
    if "txt" in texts:
        said = said._replace(caption=caption_text(texts["txt"], base + members["txt"][0].name))
    if "cls" in texts:
        label = caption_text(texts["cls"], base + members["cls"][0].name)
        said = said._replace(label=int(label) if label.isascii() and label.isdecimal() and len(label) < 20 else label)
    return said


def load(config: TarConfig) -> Dataset:
    """The pictures of all samples, in the order of the shards and of the samples in them.

    Raises:
        UsageError: no such file, no sample with a picture, options that do not fit, or (unless ``on_error=skip``) a
            damaged shard or picture, a sample of a key seen before, without a picture, or that lacks what others have;
            the message names shard and member.
    """
    skips = Skips(config.on_error)
    samples, shards = _Samples(config, skips), list[Place]()
    for path in _shards(config.location, skips):
        shards.append(path)
        samples.add_shard(len(shards) - 1, path)
    if not len(samples.names):
        skips.refuse_nothing_left(0, skips.count) if skips.count else None
        raise UsageError(f"{config.location}: no picture in the shards; expected members such as 000001.jpg")
    table = np.frombuffer(samples.places, dtype=np.int64).reshape(-1, 3)
    codes, caption_of = (np.frombuffer(column, dtype=np.int64) for column in (samples.codes, samples.caption_of))
    every = TarFiles(config.location, shards, samples.names, table)
    nobody = np.zeros(len(every), dtype=bool)
    rows = complete_rows({"label": codes, "caption": caption_of}, nobody, every.title, skips)
    classes, remarks = _classes(config, samples, codes, rows)
    captions = samples.captions.select(caption_of[rows]) if len(samples.captions) else None
    files = TarFiles(config.location, shards, samples.names.select(rows), table[rows])
    return load_encoded(config, files, classes.labels, classes.names, captions, {**_counts(samples), **remarks}, skips)


def _shards(location: Path, skips: Skips) -> Iterator[Place]:
    """What can be opened, one after another; what is unpacked into memory is limited over all of them."""
    paths = find_shards(location)
    left = encoded.MAX_BYTES_IN_MEMORY
    for path in paths:
        try:
            file = FileAt(path)
            if file.read(0, 2) == b"\x1f\x8b":
                unpacked = MemoryAt(path, left)
                left -= unpacked.size
                yield unpacked
            else:
                yield file if len(paths) <= _MOST_OPEN else OpenedEachTime(path)
        except UsageError as error:
            if len(paths) == 1:
                raise
            skips.take(error)


def _classes(config: TarConfig, samples: _Samples, codes: Indices, rows: Indices) -> tuple[Classes, dict[str, str]]:
    """The classes of the kept samples, from their folders where that is asked for or nothing else tells."""
    if config.labels == "none" or (config.labels == "auto" and (codes >= 0).any()):
        kept = samples.column.classes(codes, (), config.location) if config.labels == "auto" else Classes(None, ())
        return (Classes(kept.labels[rows], kept.names) if kept.labels is not None else kept), {}
    names = samples.names.select(rows)
    folders = folder_classes(names, config.labels, config.location)
    if folders is None:
        return Classes(None, ()), depth_remark(names)
    column = LabelColumn()
    return column.classes(np.fromiter((column.code(folder, str(config.location)) for folder in folders), np.int64)), {}


def _counts(samples: _Samples) -> dict[str, str]:
    counts = {"other_files_passed_over": samples.num_others, "links_passed_over": samples.num_links}
    return {what: str(count) for what, count in counts.items() if count}
