"""Parquet and Arrow tables with a column of encoded images, as Hugging Face's ``datasets`` writes them.

Layout: a column of structs (``bytes``, ``path``), and in the schema's metadata, under ``huggingface``, JSON that
declares the columns of images and classes, with the class names: ``{"info": {"features": {"image": {"_type": "Image"},
"label": {"_type": "ClassLabel", "names": [...]}}}}``. Plain columns of bytes need no metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from undiffuse.captions import join_alternatives
from undiffuse.data.config import ParquetConfig
from undiffuse.data.dataset import Dataset, Indices
from undiffuse.data.readers.tables import Tables, arrow, integer_column, is_string_list, is_text, plain_type
from undiffuse.data.readers.text import readable
from undiffuse.data.sources.layout.caption_column import caption_column
from undiffuse.data.sources.layout.captions import complete_rows
from undiffuse.data.sources.layout.classes import LabelColumn
from undiffuse.data.sources.layout.folder_files import add_unused
from undiffuse.data.sources.layout.ignored_items import IgnoredItems
from undiffuse.data.sources.table_files import find_tables
from undiffuse.data.storage.encoded import load_encoded
from undiffuse.data.storage.encoded_files import EncodedFiles
from undiffuse.data.storage.skips import Skips
from undiffuse.data.storage.string_array import StringArray
from undiffuse.errors import UsageError
from undiffuse.registry import nearest

MAX_IMAGE_BYTES = 2**28
_TYPE_SHOWN = 40  # characters of a type in messages
_IMAGES, _LABELS, _CAPTIONS = (
    ("image", "img", "jpg", "png", "picture"),  # data
    ("label", "labels", "class"),
    ("caption", "text", "prompt", "captions", "texts", "prompts", "sentences"),
)


class TableFiles(EncodedFiles):
    """Images in a column of a table.

    Args:
        tables: the files.
        column: name of the column.
        rows: (N,) selected rows.
    """

    def __init__(self, tables: Tables, column: str, rows: Indices) -> None:
        super().__init__(tables.paths[0] if len(tables.paths) == 1 else tables.paths[0].parent)
        self._tables, self._column, self._rows = tables, column, rows

    def __len__(self) -> int:
        return len(self._rows)

    def title(self, index: int) -> str:
        return row_title(self._tables, int(self._rows[index]))

    def read(self, index: int) -> bytes:
        cell, title = self._tables.value(int(self._rows[index]), self._column), self.title(index)
        names = [field.name for field in cell.type] if arrow().types.is_struct(cell.type) else []
        content = cell["bytes"] if names and cell.is_valid else cell
        if not content.is_valid:
            elsewhere = "path" in names and cell.is_valid and cell["path"].is_valid
            hint = "its image is in a separate file, which is not read" if elsewhere else "the cell is empty"
            raise UsageError(f"{title}: has no bytes in {self._column!r}: {hint}")
        buffer = content.as_buffer()
        if buffer.size > MAX_IMAGE_BYTES:
            raise UsageError(f"{title}: {buffer.size} bytes exceed the limit of {MAX_IMAGE_BYTES} for an image")
        return buffer.to_pybytes()  # type: ignore[no-any-return]

    def release(self) -> None:
        self._tables.release()


def row_title(tables: Tables, row: int) -> str:
    """Name of a row in messages: its file, and its number in the file, from 0."""
    location = tables.locate(row)
    return f"{readable(str(tables.paths[location.table]))} row {location.row_in_table}"


class Columns(NamedTuple):
    """Names of the columns that are read, and class names if the table declares them."""

    image: str
    label: str | None
    caption: str | None
    class_names: tuple[str, ...]
    notes: dict[str, str]


def load(config: ParquetConfig) -> Dataset:
    """Load the images of a table's rows, in the order of its shards.

    Raises:
        UsageError: if pyarrow is not installed; the table or a column of images is missing; the columns of shards
            differ; or (unless ``on_error=skip``) a shard is missing or damaged, an image is damaged, or a row lacks a
            label that others have; the message names the file and the row.
    """
    arrow()
    skips, left_out = Skips(config.on_error), IgnoredItems()
    found = find_tables(config.location, config.split, skips.take)
    if config.location.is_dir():
        add_unused(left_out, config.location, [*found.paths, *found.others])
    tables = Tables(_valid(found.paths, skips))
    columns = _columns(config, tables)
    if not len(tables):
        raise UsageError(f"{config.location}: the table has no rows; expected at least one image")
    codes, labels = _labels(config, tables, columns)
    texts, caption_of = _captions(tables, columns, config.caption_index)
    rejected = np.zeros(len(tables), dtype=bool)
    rows = complete_rows({"label": codes}, rejected, lambda row: row_title(tables, row), skips)
    classes = labels.classes(codes, columns.class_names, str(config.location))
    selected_labels = None if classes.labels is None else classes.labels[rows]
    captions, about_captions = caption_column(texts, caption_of[rows])
    about = {"source": str(config.location), "shards": str(len(tables.paths)), **columns.notes, **labels.notes}
    about |= {**about_captions, **found.notes, **left_out.notes}
    files = TableFiles(tables, columns.image, rows)
    return load_encoded(config, files, selected_labels, classes.names, captions, about, skips)


def _valid(paths: Sequence[Any], skips: Skips) -> list[Any]:
    """Files that can be opened and have the columns of the first; the others are reported to ``skips``."""
    valid, schema = list[Any](), None
    for path in paths:
        try:
            found = Tables([path]).tables[0].schema
            if schema is not None and _plain_columns(found) != _plain_columns(schema):
                raise UsageError(f"{path}: its columns are not those of {valid[0].name}; name one table at a time")
        except UsageError as error:
            skips.take(error)
            continue
        schema = schema or found
        valid.append(path)
    skips.check_images_left(len(valid), len(paths))
    return valid


def _plain_columns(schema: Any) -> list[tuple[str, Any]]:
    return [(field.name, plain_type(field.type)) for field in schema]


def _columns(config: ParquetConfig, tables: Tables) -> Columns:
    schema, where = tables.tables[0].schema, str(tables.paths[0])
    declared = _declared(schema.metadata or {}, where)
    types = dict(_plain_columns(schema))
    images = [name for name, kind in types.items() if _can_be_image(kind)]
    texts = [name for name, kind in types.items() if is_text(kind)]
    text_lists = [name for name, kind in types.items() if is_string_list(kind)]
    classes = [name for name in schema.names if declared.get(name, {}).get("_type") == "ClassLabel"]
    declared_images = [name for name in images if declared.get(name, {}).get("_type") == "Image"]
    image = _select_column(
        config.image_column, [*declared_images, *(n for n in _IMAGES if n in images), *images[:1]], schema, where
    )
    if image is None or image not in images:
        held = ", ".join(f"{name} ({_short_type(kind)})" for name, kind in types.items())
        what = f"no column of images ({config.image_column})"
        raise UsageError(f"{where}: {what}; expected bytes, or a struct with bytes, one image per row, among: {held}")
    label = _select_column(config.label_column, [*classes, *(n for n in _LABELS if n in schema.names)], schema, where)
    label = None if config.labels == "none" else label
    candidates = [
        *(name for name in _CAPTIONS if name in texts),
        *(texts if len(texts) == 1 and texts[0] != label else ()),
        *(name for name in _CAPTIONS if name in text_lists),
    ]
    caption = _select_column(config.caption_column, [name for name in candidates if name != label], schema, where)
    caption = None if config.captions == "none" else caption
    if caption is not None and caption not in (*texts, *text_lists):
        instead = ", ".join((*texts, *text_lists))
        hint = f"expected one of: {instead}" if instead else "it has none; set data.captions=none"
        raise UsageError(f"{where}: caption_column={caption} is not a column of text; {hint}")
    names = tuple(declared.get(label, {}).get("names", ())) if label is not None else ()
    notes = {"image_column": image, "label_column": label, "caption_column": caption}
    others = [name for name in classes if name != label]
    also = {"other_classes": f"{', '.join(others)} (data.label_column= selects one)"} if others else {}
    unused = [name for name in schema.names if name not in (image, label, caption, *others)]
    also |= {"columns_not_read": ", ".join(unused)} if unused else {}
    return Columns(image, label, caption, names, {**{k: v for k, v in notes.items() if v is not None}, **also})


def _select_column(requested: str, candidates: Sequence[str], schema: Any, where: str) -> str | None:
    """The requested column, or the first candidate."""
    if requested == "auto":
        return next(iter(candidates), None)
    if requested not in schema.names:
        raise UsageError(f"{where}: no column {requested!r}; {nearest(requested, schema.names)}")
    return requested


def _short_type(kind: Any) -> str:
    """Abbreviated type for messages."""
    text = str(kind)
    return text if len(text) <= _TYPE_SHOWN else f"{text[:_TYPE_SHOWN]}..."


def _can_be_image(kind: Any) -> bool:
    types = arrow().types
    if types.is_struct(kind):
        return any(field.name == "bytes" and _can_be_image(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _declared(metadata: dict[bytes, bytes], where: str) -> dict[str, dict[str, Any]]:
    """Features of the columns in Hugging Face's metadata; empty if there is none."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        found = {name: feature for name, feature in features.items() if isinstance(feature, dict)}
        for name, feature in found.items():
            names = feature.get("names", [])
            if not isinstance(names, list) or not all(isinstance(text, str) for text in names):
                raise UsageError(f"{where}: the class names of {name!r} are not a list of strings")
    except (ValueError, AttributeError, RecursionError):
        raise UsageError(f"{where}: its Hugging Face metadata does not have the form that datasets writes") from None
    return found


def _labels(config: ParquetConfig, tables: Tables, columns: Columns) -> tuple[Indices, LabelColumn]:
    """(N,) codes of a label column of integers or text; -1 for a missing label (also stored as -1 or empty)."""
    found, codes = LabelColumn(), np.full(len(tables), -1, dtype=np.int64)
    if columns.label is None:
        return codes, found
    start = 0
    for column in tables.each(columns.label):
        title = f"{row_title(tables, start)}, column {columns.label!r}" if len(column) else ""
        codes[start : start + len(column)] = _codes(column, found, title)
        start += len(column)
    return codes, found


def _codes(column: Any, found: LabelColumn, title: str) -> Indices:
    types = arrow().types
    if types.is_integer(column.type):
        numbers = integer_column(column)
        if len(numbers) and numbers.min() < -1:
            raise UsageError(f"{title}: label {numbers.min()}; expected class numbers from 0")
        used, places = np.unique(numbers, return_inverse=True)
        return np.array([found.code(int(n), title) if n >= 0 else -1 for n in used], dtype=np.int64)[places.reshape(-1)]
    if is_text(column.type) or types.is_boolean(column.type):
        texts = column.cast(arrow().string()).to_pylist()
        return np.array([found.code(text, title) if text else -1 for text in texts], dtype=np.int64)
    raise UsageError(
        f"{title}: values of type {column.type} are not classes; select another column with data.label_column"
    )


def _captions(tables: Tables, columns: Columns, index: int | None) -> tuple[StringArray, Indices]:
    """Captions, and (N,) each row's caption, -1 for none; of a list all, or entry ``index`` or else the last."""
    texts, caption_of, start = StringArray(), np.full(len(tables), -1, dtype=np.int64), 0
    for column in tables.each(columns.caption) if columns.caption is not None else ():
        for place, text in enumerate(column.to_pylist()):
            captions = [one for one in (text if isinstance(text, list) else [text]) if one is not None]
            if index is not None:
                captions = captions[min(index, len(captions) - 1) :][:1]
            if joined := join_alternatives(captions):
                caption_of[start + place] = len(texts)
                texts.append(joined)
        start += len(column)
    return texts, caption_of
