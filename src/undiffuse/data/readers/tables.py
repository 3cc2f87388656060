"""Parquet and Arrow files as numbered row groups, a few of which are cached at a time.

Layouts after the Apache Parquet format and the Arrow IPC format (file and stream), both read by pyarrow. Arrow files
are memory-mapped; a row group of a Parquet file is decoded when one of its rows is accessed.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from undiffuse.errors import UsageError

MAX_GROUPS = 4  # row groups cached at once, independent of the number of threads
MAX_OPEN = 256  # files kept open; if there are more, each is opened for each read
_ARROW = b"ARROW1"
T = TypeVar("T")


def arrow() -> Any:
    """The package pyarrow with its submodules ``ipc`` and ``parquet``.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise UsageError(
            "Parquet and Arrow tables are read by pyarrow, which is not installed; pip install 'undiffuse[parquet]'"
        ) from None
    return pyarrow


class RowLocation(NamedTuple):
    """Location of a row: its table, row group, index in the group and index in the table."""

    table: int
    group: int
    row: int
    row_in_table: int


class Table:
    """One file: its schema, the sizes of its row groups, and access to their columns.

    Args:
        path: the file.
        keep_open: keep the file open; otherwise it is opened for each read.
    """

    def __init__(self, path: Path, keep_open: bool = True) -> None:
        self.path = path
        opened, self.group_sizes, self.schema = self._attempt(lambda: _opened(path))
        self._opened = opened if keep_open else None
        rows = sum(self.group_sizes)
        if rows > path.stat().st_size or min(self.group_sizes, default=0) < 0:  # checked before memory is allocated
            raise self._damaged(f"{rows} rows in {path.stat().st_size} bytes")

    def column(self, group: int, name: str) -> Any:
        """A column of a row group as a validated pyarrow array of plain type.

        Raises:
            UsageError: the file is corrupt.
        """

        def read() -> Any:
            column = (self._opened or _opened(self.path)[0])(group, name)
            column.validate(full=True)
            if len(column) != self.group_sizes[group]:
                raise ValueError(f"group {group} has {len(column)} rows of {self.group_sizes[group]}")
            return column

        column = self._attempt(read)
        plain = plain_type(column.type)
        if plain == column.type:
            return column
        try:
            return column.cast(plain)
        except arrow().ArrowException as error:  # this pyarrow knows the type but cannot convert it
            what = f"column {name!r} of type {column.type} cannot be read by this pyarrow ({error})"
            raise UsageError(f"{self.path}: {what}; pip install -U pyarrow") from None

    def _attempt(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except (arrow().ArrowException, OSError, EOFError, ValueError, KeyError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise self._damaged(first) from None

    def _damaged(self, what: str) -> UsageError:
        return UsageError(f"{self.path}: damaged, cut short or not a table ({what}); fetch it again")


def _opened(path: Path) -> tuple[Callable[[int, str], Any], list[int], Any]:
    """(function that reads a column of a group, sizes of the groups, schema)"""
    with path.open("rb") as file:
        mark = file.read(len(_ARROW))
    is_parquet = mark[:4] == b"PAR1" or (path.suffix.lower() == ".parquet" and mark != _ARROW)
    opened = _parquet(path) if is_parquet else _arrow_file(path) if mark == _ARROW else _arrow_stream(path)
    _check_names(opened[2])
    return opened


def _check_names(fields: Any) -> None:
    """Access every field name, which decodes it: an invalid name raises an error only when it is decoded."""
    for field in fields:
        _ = field.name
        _check_names([field.type.field(index) for index in range(field.type.num_fields)])


def _parquet(path: Path) -> tuple[Callable[[int, str], Any], list[int], Any]:
    file = arrow().parquet.ParquetFile(path, memory_map=False, pre_buffer=False)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]

    def column(group: int, name: str) -> Any:
        return file.read_row_group(group, columns=[name], use_threads=False).column(name)

    return column, sizes, file.schema_arrow


def _arrow_file(path: Path) -> tuple[Callable[[int, str], Any], list[int], Any]:
    reader = arrow().ipc.open_file(arrow().memory_map(str(path)))
    sizes = [reader.get_batch(group).num_rows for group in range(reader.num_record_batches)]
    return lambda group, name: reader.get_batch(group).column(name), sizes, reader.schema


def _arrow_stream(path: Path) -> tuple[Callable[[int, str], Any], list[int], Any]:
    reader = arrow().ipc.open_stream(arrow().memory_map(str(path)))
    batches = list(reader)  # views of the mapped file, not copies
    return lambda group, name: batches[group].column(name), [batch.num_rows for batch in batches], reader.schema


class Tables:
    """The concatenated rows of several files; may be read by several threads and after a fork.

    Args:
        paths: the files, all of the same schema.

    Raises:
        UsageError: a file is corrupt.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._open()
        sizes = [(t, g, size) for t, table in enumerate(self.tables) for g, size in enumerate(table.group_sizes)]
        self._groups = np.array([row[:2] for row in sizes], dtype=np.int64).reshape(-1, 2)
        self._ends = np.cumsum([row[2] for row in sizes], dtype=np.int64)
        self._table_starts = np.cumsum([0] + [sum(table.group_sizes) for table in self.tables], dtype=np.int64)

    def _open(self) -> None:
        self.tables = [Table(path, len(self.paths) <= MAX_OPEN) for path in self.paths]
        self._cached: OrderedDict[tuple[int, int, str], Any] = OrderedDict()
        self._lock, self._process = threading.Lock(), os.getpid()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        keys = ("paths", "_groups", "_ends", "_table_starts")
        return {key: self.__dict__[key] for key in keys}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def locate(self, row: int) -> RowLocation:
        """Location of a row of the concatenated files."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        before = int(self._ends[number - 1]) if number else 0
        table, group = self._groups[number].tolist()
        return RowLocation(table, group, row - before, row - int(self._table_starts[table]))

    def value(self, row: int, name: str) -> Any:
        """One value of a column as a pyarrow scalar; its row group is cached with the last few others."""
        location = self.locate(row)
        if self._process != os.getpid():  # files opened before a fork are reopened after it
            self._open()
        key = (location.table, location.group, name)
        with self._lock:
            if key not in self._cached:
                self._cached[key] = self.tables[location.table].column(location.group, name)
                while len(self._cached) > MAX_GROUPS:
                    self._cached.popitem(last=False)
            self._cached.move_to_end(key)
            column = self._cached[key]
        return column[location.row]

    def each(self, name: str) -> Any:
        """Iterate over a column by row groups, without caching."""
        for table, group in self._groups.tolist():
            yield self.tables[table].column(group, name)

    def release(self) -> None:
        """Clear the cached row groups."""
        self._cached.clear()


def plain_type(kind: Any) -> Any:
    """The equivalent type without dictionary encoding, views and fixed sizes, also inside lists and structs."""
    types, root = arrow().types, arrow()
    if types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        plain = [field.with_type(plain_type(field.type)) for field in fields]
        return kind if plain == fields else root.struct(plain)
    if types.is_list(kind) or types.is_large_list(kind):
        inner = plain_type(kind.value_type)
        return kind if inner == kind.value_type else root.large_list(inner)
    if types.is_fixed_size_list(kind) or _is(kind, "list_view") or _is(kind, "large_list_view"):
        return root.large_list(plain_type(kind.value_type))
    if _is(kind, "string_view"):
        return root.large_string()
    return root.large_binary() if _is(kind, "binary_view") or types.is_fixed_size_binary(kind) else kind


def _is(kind: Any, name: str) -> bool:
    """``pyarrow.types.is_{name}``; false if this version of pyarrow does not know the type."""
    return bool(getattr(arrow().types, f"is_{name}", lambda _: False)(kind))


def is_text(kind: Any) -> bool:
    """Whether a plain type is a string."""
    return bool(arrow().types.is_string(kind) or arrow().types.is_large_string(kind))


def is_string_list(kind: Any) -> bool:
    """Whether a plain type is a list of strings."""
    types = arrow().types
    return bool((types.is_list(kind) or types.is_large_list(kind)) and is_text(kind.value_type))


def integer_column(column: Any) -> npt.NDArray[np.int64]:
    """An integer column as an array, with -1 for missing values."""
    return np.asarray(column.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
