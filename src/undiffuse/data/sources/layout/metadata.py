"""Labels and captions that a file lists for many images, and what a JSON record says of one.

Read are ``metadata.jsonl`` as Hugging Face's ``imagefolder`` has it (one object per line: ``file_name``, relative to
the file's own folder, and any of ``caption``/``text``/``prompt`` and ``label``/``class``), ``metadata.csv`` of the same
columns (separated by commas, semicolons or tabs), and the ``dataset.json`` of the StyleGAN and EDM tools: ``{"labels":
[["00000/img00000000.png", 3], ...]}`` with ``null`` for no labels. With the labels, ``"class_names"`` may list the
classes' names, which those tools ignore. UTF-16 is read where a mark at the beginning says so.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from undiffuse.data.readers.text import as_utf8
from undiffuse.errors import UsageError

METADATA, METADATA_CSV, DATASET = "metadata.jsonl", "metadata.csv", "dataset.json"
MAX_SIDECAR_BYTES = 2**20  # of a text next to one image
MAX_LIST_BYTES = 2**29  # of a list of all images
_CAPTION_KEYS = ("caption", "text", "prompt")
_LABEL_KEYS = ("label", "class")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # which JSON can say and no text can hold; two make a whole one


class Annotation(NamedTuple):
    """What a record says of one image; ``None`` where it says nothing."""

    caption: str | None
    label: object | None


class Line(NamedTuple):
    """What a list says of one image.

    Args:
        number: of the line or entry, from 1.
        image: its name, from the root.
        annotation: of it.
    """

    number: int
    image: str
    annotation: Annotation


class DatasetJson(NamedTuple):
    """Label of each name (none for no labels), and names of classes where they are given."""

    labels: Iterable[Line]
    class_names: tuple[str, ...]


def parse_json(content: bytes | str, title: str, once: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        content: the text.
        title: of it, for messages.
        once: refuse an object that says two things under one key.

    Raises:
        UsageError: not JSON, not UTF-8 or nested without end; the message begins with ``title``.
    """
    try:
        text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
        value = json.loads(text, object_pairs_hook=_once if once else None)
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeError:
        raise UsageError(f"{title}: not UTF-8 text, or half a character in it; expected JSON") from None
    except RecursionError:
        raise UsageError(f"{title}: its JSON is nested too deep to be read") from None
    except ValueError as error:
        raise UsageError(f"{title}: not valid JSON ({error})") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if value != found[key]:
                raise ValueError(f"{key!r} is there twice, with {value!r} and {found[key]!r}")
    return found


def caption_text(content: bytes, title: str) -> str:
    """A caption in one line.

    Raises:
        UsageError: not UTF-8, or empty.
    """
    try:
        text = " ".join(as_utf8(content).decode().split())
    except UnicodeDecodeError:
        raise UsageError(f"{title}: not UTF-8 text; expected a caption") from None
    if not text:
        raise UsageError(f"{title}: empty; expected a caption")
    return text


def annotation_in(record: object, title: str) -> Annotation:
    """Caption and label in one JSON object.

    Raises:
        UsageError: not an object, or a caption that is no text.
    """
    if not isinstance(record, dict):
        raise UsageError(f"{title}: holds {_kind(record)}; expected an object with a caption or a label")
    caption = next((record[key] for key in _CAPTION_KEYS if record.get(key) is not None), None)
    if not isinstance(caption, str | None):
        raise UsageError(f"{title}: its caption is {_kind(caption)}; expected a text")
    caption = " ".join(caption.split()) if caption else None
    return Annotation(caption or None, next((record[key] for key in _LABEL_KEYS if record.get(key) is not None), None))


def read_metadata(content: bytes, folder: str, title: str, take: Callable[[UsageError], None]) -> Iterator[Line]:
    """The lines of a ``metadata.jsonl``.

    Args:
        content: of the file.
        folder: it lies in, relative to the root; ``""`` for the root.
        title: of the file in messages.
        take: is given what is wrong with a line; the line is skipped if it returns.
    """
    for number, line in enumerate(_utf8(content, title).splitlines(), start=1):
        where = f"{title} line {number}"
        try:
            if line.strip():
                record = parse_json(line, where, once=True)
                annotation = annotation_in(record, where)
                yield Line(number, place_of(record.get("file_name"), folder, where), annotation)
        except UsageError as error:
            take(error)


def read_metadata_csv(
    content: bytes, folder: str, title: str, take: Callable[[UsageError], None]
) -> Iterator[Line] | None:
    """The lines of a ``metadata.csv``, or ``None`` where it is a table of another kind (no column ``file_name``).

    Labels are whole numbers where all of them are. Args and errors as for ``read_metadata``.
    """
    try:
        text = _utf8(content, title).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{title}: not UTF-8 text; expected a table with the column file_name") from None
    head = text.partition("\n")[0]
    for delimiter in (",", ";", "\t"):
        columns = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
        if "file_name" in columns:
            return _csv_lines(text, delimiter, columns, folder, title, take)
    return None


def _csv_lines(
    text: str, delimiter: str, columns: list[str], folder: str, title: str, take: Callable[[UsageError], None]
) -> Iterator[Line]:
    label_of = next((key for key in _LABEL_KEYS if key in columns), "")
    numbers = all(value.isascii() and value.isdecimal() for value in _csv_column(text, delimiter, columns, label_of))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    next(reader)
    while True:
        number = reader.line_num + 1
        where = f"{title} line {number}"
        try:
            row = next(reader, None)
            if row is None:
                return
            if not row:
                continue
            if len(row) != len(columns):
                raise UsageError(f"{where}: {len(row)} values; expected {len(columns)}: {', '.join(columns)}")
            record: dict[str, object] = {key: value for key, value in zip(columns, row, strict=True) if value}
            if numbers and label_of in record:
                record[label_of] = int(str(record[label_of])[:20])
            yield Line(number, place_of(record.get("file_name"), folder, where), annotation_in(record, where))
        except csv.Error as error:
            take(UsageError(f"{where}: not a line of a table ({error})"))
        except UsageError as error:
            take(error)


def _csv_column(text: str, delimiter: str, columns: list[str], name: str) -> Iterator[str]:
    """The values of a column that are not empty; none of a table that is damaged, as will be said elsewhere."""
    if not name:
        return
    place = columns.index(name)
    try:
        for number, row in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)):
            if number and len(row) == len(columns) and row[place]:
                yield row[place]
    except csv.Error:
        return


def _utf8(content: bytes, title: str) -> bytes:
    try:
        return as_utf8(content)
    except UnicodeDecodeError:
        raise UsageError(f"{title}: begins with the mark of a Unicode text and is not one; save it as UTF-8") from None


def read_dataset_json(content: bytes, folder: str, title: str) -> DatasetJson | None:
    """The labels of a ``dataset.json``, or ``None`` where it is a file of another kind (no key ``labels``).

    Raises:
        UsageError: not JSON, or not of the form that the StyleGAN tools write.
    """
    found = parse_json(content, title, once=True)
    if not isinstance(found, dict) or "labels" not in found:
        return None
    labels, names = found["labels"], found.get("class_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{title}: its class_names are no list of texts; mend it or take data.labels=none")
    if labels is None:
        return DatasetJson((), tuple(names))
    return DatasetJson(_entries(labels, folder, title), tuple(names))


def _entries(labels: object, folder: str, title: str) -> Iterator[Line]:
    pairs = labels.items() if isinstance(labels, dict) else labels if isinstance(labels, list) else [None]
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise UsageError(f'{title}: its labels are not of the form [["name.png", 3], ...]; mend it')
        yield Line(number, place_of(pair[0], folder, title), Annotation(None, pair[1]))


def place_of(name: object, folder: str, title: str) -> str:
    """The path from the root of an image named relative to ``folder``.

    Raises:
        UsageError: no name, or one that leads out of the folder.
    """
    if not isinstance(name, str) or not name:
        raise UsageError(f"{title}: names no image; expected a file_name")
    place = posixpath.normpath(name.replace("\\", "/"))
    if place.startswith(("../", "/")) or place == "..":
        raise UsageError(f"{title}: {name!r} leads out of its folder; expected a name below it")
    return f"{folder}/{place}" if folder else place


def _kind(value: object) -> str:
    words = {type(None): "null", list: "a list", str: "a text", bool: "true or false", dict: "an object"}
    return words.get(type(value), "a number")
