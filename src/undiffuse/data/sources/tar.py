"""Tar shards of images as a data set, read without unpacking.

The convention is that of WebDataset: members with the same key (the path up to the first dot of the base name) are one
sample, whether they are adjacent or not: the image (``.jpg``, ``.png`` ...), its class (``.cls``), its caption
(``.txt``) and a ``.json`` file with either. See ``tar_samples`` for samples of several images.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import TarConfig
from undiffuse.data.dataset import Dataset, Indices
from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.readers.tar_index import Headers, Member, MemoryAt, RandomAccessFile, ReopenedFile
from undiffuse.data.readers.text import readable
from undiffuse.data.sources.layout.caption_column import caption_column
from undiffuse.data.sources.layout.captions import complete_rows
from undiffuse.data.sources.layout.classes import Classes, LabelColumn, depth_note, folder_classes
from undiffuse.data.sources.layout.folder_files import add_unused
from undiffuse.data.sources.layout.ignored_items import IgnoredItems
from undiffuse.data.sources.layout.metadata import (
    MAX_SIDECAR_BYTES,
    Annotation,
    annotation_in,
    caption_text,
    class_text,
    parse_json,
)
from undiffuse.data.sources.layout.splits import Folders, select_shards
from undiffuse.data.sources.layout.tar_files import find_shards, is_explicit
from undiffuse.data.sources.layout.tar_sample_sets import RecordCollector, sample_sets_in, without_grids_and_records
from undiffuse.data.sources.layout.tar_samples import (
    SIDECAR_ENDINGS,
    Members,
    Sample,
    image_of,
    relevant,
    samples_of,
    scattered_keys,
)
from undiffuse.data.storage import encoded
from undiffuse.data.storage.encoded import load_encoded
from undiffuse.data.storage.encoded_files import EncodedFiles
from undiffuse.data.storage.skips import Skips
from undiffuse.data.storage.string_array import StringArray
from undiffuse.errors import UsageError
from undiffuse.progress import ProgressLine

MAX_IMAGE_BYTES = 2**28
_MOST_OPEN = 256  # shards; if there are more, each is opened for every read


class TarFiles(EncodedFiles):
    """The images of samples in shards.

    Args:
        location: path given by the user.
        shards: the shards.
        names: names of the members.
        table: (N, 3) int64: shard index, offset, size.
    """

    def __init__(
        self, location: Path, shards: Sequence[RandomAccessFile], names: StringArray, table: npt.NDArray[np.int64]
    ) -> None:
        super().__init__(location)
        self._shards, self._names, self._table = shards, names, table

    def __len__(self) -> int:
        return len(self._names)

    def title(self, index: int) -> str:
        return readable(f"{self._shards[self._table[index, 0]].path}!{self._names[index]}")

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
    """Samples of all shards in columns: 24 bytes per sample for the location, 16 for label and caption, and names."""

    def __init__(self, config: TarConfig, skips: Skips) -> None:
        self._skips, self._image_column, self.left_out = skips, config.image_column, IgnoredItems()
        self._use_labels, self._use_captions = config.labels == "auto", config.captions == "auto"
        self.names, self.captions, self.column = StringArray(), StringArray(), LabelColumn()
        self.places, self.codes, self.caption_of = array("q"), array("q"), array("q")

    def add_shard(self, number: int, shard: RandomAccessFile) -> None:
        """Add the samples of one shard; if it is damaged and skipped, those before the damage."""
        seen: set[int] = set()
        try:
            headers = RecordCollector(Headers(shard))
            scattered = _scattered(headers)
            sets = sample_sets_in(shard, headers.records, headers, self._skips)
            members = relevant(iter(headers), shard.path, self._skips, self.left_out)
            members = without_grids_and_records(members, sets, self.left_out) if sets else members
            for sample in samples_of(members, self._image_column, scattered):
                try:
                    if hash(sample.key) in seen:
                        where = readable(f"{shard.path}!{sample.key}")
                        raise UsageError(f"{where}: there are two samples of this key")
                    seen.add(hash(sample.key))
                    self._add(number, shard, sample)
                except UsageError as error:
                    self._skips.take(error)
        except UsageError as error:
            self._skips.take(error)

    def _add(self, number: int, shard: RandomAccessFile, sample: Sample) -> None:
        image = image_of(sample, readable(f"{shard.path}!{sample.key}"), self._image_column, self.left_out)
        title = readable(f"{shard.path}!{image.name}")
        if image.size > MAX_IMAGE_BYTES:
            raise UsageError(f"{title}: {image.size} bytes exceed the limit of {MAX_IMAGE_BYTES} for an image")
        annotation = _annotation(shard, sample.sidecars)
        code = self.column.code(annotation.label, title) if self._use_labels and annotation.label is not None else -1
        self.names.append(image.name)
        self.places.extend((number, image.offset, image.size))
        self.codes.append(code)
        has_caption = self._use_captions and annotation.caption is not None
        self.caption_of.append(len(self.captions) if has_caption else -1)
        if has_caption:
            self.captions.append(str(annotation.caption))


def _scattered(headers: Iterable[Member]) -> frozenset[str]:
    """Return ``scattered_keys``; a damaged shard gives none here, as reading the samples reports the error."""
    try:
        return scattered_keys(headers)
    except UsageError:
        return frozenset()


def _annotation(shard: RandomAccessFile, sidecars: Members) -> Annotation:
    """Class and caption of a sample; ``.cls`` and ``.txt`` take precedence over ``.json``."""
    annotation, texts = Annotation(None, None), dict[str, bytes]()
    for ending in SIDECAR_ENDINGS:
        for member in sidecars.get(ending, []):
            title = readable(f"{shard.path}!{member.name}")
            if member.size > MAX_SIDECAR_BYTES or ending in texts:
                what = "occurs twice" if ending in texts else f"has {member.size} bytes; expected a short text"
                raise UsageError(f"{title}: {what}")
            texts[ending] = shard.read(member.offset, member.size)
    base = readable(f"{shard.path}!")
    if "json" in texts:
        title = base + readable(sidecars["json"][0].name)
        annotation = annotation_in(parse_json(texts["json"], title), title)
    if "txt" in texts:
        caption = caption_text(texts["txt"], base + readable(sidecars["txt"][0].name))
        annotation = annotation if caption is None else annotation._replace(caption=caption)
    if "cls" in texts:
        label = class_text(texts["cls"], base + readable(sidecars["cls"][0].name))
        annotation = annotation._replace(
            label=int(label) if label.isascii() and label.isdecimal() and len(label) < 20 else label
        )
    return annotation


def load(config: TarConfig) -> Dataset:
    """Load the images of all samples, in the order of the shards and of the samples in them.

    Raises:
        UsageError: if a file is missing, no sample has an image, the options do not fit, or (unless ``on_error=skip``)
            a shard or image is damaged, or a sample repeats a key, has no image or lacks a label that others have;
            the message names shard and member.
    """
    skips = Skips(config.on_error)
    samples, shards = _Samples(config, skips), list[RandomAccessFile]()
    paths, about = _paths(config, samples.left_out)
    with ProgressLine(f"listing {config.location.name}") as counter:
        for shard in _shards(paths, skips):
            counter.progress(len(shards), len(paths))
            shards.append(shard)
            samples.add_shard(len(shards) - 1, shard)
    if not len(samples.names):
        skips.check_images_left(0, skips.count) if skips.count else None
        found = samples.left_out.text(warned=True) or samples.left_out.text(warned=False) or "no files"
        where = readable(str(config.location))
        raise UsageError(f"{where}: no image in the shards ({found}); expected members such as 000001.jpg")
    table = np.frombuffer(samples.places, dtype=np.int64).reshape(-1, 3)
    codes, caption_of = (np.frombuffer(column, dtype=np.int64) for column in (samples.codes, samples.caption_of))
    all_files = TarFiles(config.location, shards, samples.names, table)
    split_folders = Folders(samples.names, None if about else config.split, config.location)
    absent = np.zeros(len(all_files), dtype=bool)
    if not split_folders.includes_all:
        absent = np.fromiter((not split_folders.includes(name) for name in samples.names), np.bool_)
    rows = complete_rows({"label": codes}, absent, all_files.title, skips)
    classes, notes = _classes(config, samples, codes, rows, split_folders)
    captions, about_captions = caption_column(samples.captions, caption_of[rows])
    files = TarFiles(config.location, shards, samples.names.select(rows), table[rows])
    about |= {**split_folders.notes, **notes, **about_captions, **samples.column.notes, **samples.left_out.notes}
    return load_encoded(config, files, classes.labels, classes.names, captions, about, skips)


def _paths(config: TarConfig, left_out: IgnoredItems) -> tuple[list[Path], dict[str, str]]:
    """Shards that are read, and a provenance note on their selection; shards named explicitly are all read."""
    location = config.location
    paths = find_shards(location)
    if location.is_dir():
        add_unused(left_out, location, paths)
    if is_explicit(location):
        return paths, {}
    chosen, note = select_shards(paths, config.split, location)
    return chosen, {"splits": note} if note else {}


def _shards(paths: Sequence[Path], skips: Skips) -> Iterator[RandomAccessFile]:
    """Open the shards one after another; the memory for unpacked shards is limited in total."""
    left = encoded.MAX_BYTES_IN_MEMORY
    for path in paths:
        try:
            file = FileAt(path)
            if file.read(0, 2) == b"\x1f\x8b":
                unpacked = MemoryAt(path, left)
                left -= unpacked.size
                yield unpacked
            else:
                yield file if len(paths) <= _MOST_OPEN else ReopenedFile(path)
        except UsageError as error:
            if len(paths) == 1:
                raise
            skips.take(error)


def _classes(
    config: TarConfig, samples: _Samples, codes: Indices, rows: Indices, split_folders: Folders
) -> tuple[Classes, dict[str, str]]:
    """Classes of the selected samples, from their folders if requested or if there are no other labels."""
    if config.labels == "none" or (config.labels == "auto" and (codes >= 0).any()):
        classes = samples.column.classes(codes, (), config.location) if config.labels == "auto" else Classes(None, ())
        return (Classes(classes.labels[rows], classes.names) if classes.labels is not None else classes), {}
    names = samples.names.select(rows)
    names = names if split_folders.includes_all else StringArray(map(split_folders.class_path, names))
    folders = folder_classes(names, config.labels, config.location)
    if folders is None:
        return Classes(None, ()), depth_note(names)
    column = LabelColumn()
    codes = np.fromiter((column.code(folder, str(config.location)) for folder in folders), np.int64)
    return column.classes(codes), column.notes
