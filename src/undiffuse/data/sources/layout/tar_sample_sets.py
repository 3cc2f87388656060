"""Sample sets in tar shards: their grids and records are not samples; see ``sample_sets``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from undiffuse.data.readers.tar_index import Member, RandomAccessFile
from undiffuse.data.readers.text import readable
from undiffuse.data.sources.layout.captions import SidecarReader
from undiffuse.data.sources.layout.ignored_items import IgnoredItems
from undiffuse.data.sources.layout.sample_sets import GRID, RECORD, is_grid, split_name, valid_sets
from undiffuse.data.storage.skips import Skips
from undiffuse.errors import UsageError


class _ShardSidecars(SidecarReader):
    """Annotation files of a shard, by their names without ``./``."""

    def __init__(self, shard: RandomAccessFile, members: Mapping[str, Member]) -> None:
        self.location, self._shard, self._members = shard.path, shard, members

    def title_of(self, name: str) -> str:
        return readable(f"{self.location}!{name}")

    def read_sidecar(self, name: str, max_bytes: int) -> bytes:
        member = self._members[name]
        if member.size > max_bytes:
            raise UsageError(
                f"{self.title_of(name)}: {member.size} bytes exceed the limit of {max_bytes} for a text file"
            )
        return self._shard.read(member.offset, member.size)


class RecordCollector:
    """Iterates over the headers of a shard and collects those of possible records of sample sets."""

    def __init__(self, headers: Iterable[Member]) -> None:
        self._headers, self.records = headers, dict[str, Member]()

    def __iter__(self) -> Iterator[Member]:
        for member in self._headers:
            if (
                member.is_plain
                and member.name.endswith(RECORD)
                and split_name(name := _clean(member.name))[1] == RECORD
            ):
                self.records[name] = member
            yield member


def sample_sets_in(
    shard: RandomAccessFile, records: Mapping[str, Member], headers: Iterable[Member], skips: Skips
) -> frozenset[str]:
    """Folders of a shard, with their slash, that contain a sample set.

    Args:
        records: records collected by ``RecordCollector``.
        headers: headers of the shard, read only if there are records. Reading the samples reports their damage.
    Raises:
        UsageError: unless ``skips`` skips it, if a record was changed after it was written.
    """
    try:
        images = [_clean(member.name) for member in headers] if records else []
    except UsageError:
        return frozenset()
    folders = {split_name(name)[0] for name in records}
    return frozenset(valid_sets(_ShardSidecars(shard, records), images, folders, skips))


def without_grids_and_records(
    members: Iterable[Member], sets: frozenset[str], left_out: IgnoredItems
) -> Iterator[Member]:
    """Members without the grids and records of sample sets; their names must be cleaned."""
    for member in members:
        if is_grid(member.name, sets):
            left_out.add(GRID, member.name)
        elif split_name(member.name) not in {(folder, RECORD) for folder in sets}:
            yield member


def _clean(name: str) -> str:
    return "/".join(part for part in name.replace("\\", "/").split("/") if part != ".")
