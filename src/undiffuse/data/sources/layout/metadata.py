"""Parsers of annotation lists (labels and captions of many images) and of JSON records for one image.

Supported are ``metadata.jsonl`` as in Hugging Face's ``imagefolder`` (one object per line: ``file_name``, relative to
the folder of the file, and any of ``caption``/``text``/``prompt``, also with an s, and ``label``/``class``),
``metadata.csv`` with the same columns (separated by commas, semicolons or tabs), and the ``dataset.json`` of the
StyleGAN and EDM tools: ``{"labels": [["00000/img00000000.png", 3], ...]}`` with ``null`` for no labels. Besides the
labels, ``"class_names"`` may list the class names, which those tools ignore. UTF-16 is read if there is a byte order
mark.

A caption is a string, or a list of strings, of which each visit of the image in training uses one; in a table such a
list is written in JSON, ``["a dog", "a brown dog"]``.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from undiffuse.captions import join_alternatives
from undiffuse.data.readers.text import as_utf8
from undiffuse.errors import UsageError

METADATA, METADATA_CSV, DATASET = "metadata.jsonl", "metadata.csv", "dataset.json"
MAX_SIDECAR_BYTES = 2**20  # limit for the annotation file of one image
MAX_LIST_BYTES = 2**29  # limit for a list of all images
_CAPTION_KEYS = ("caption", "text", "prompt", "captions", "texts", "prompts")
_LABEL_KEYS = ("label", "class")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # surrogates: valid in JSON, but encodable only in pairs


class Annotation(NamedTuple):
    """Caption and label of one image; ``None`` if missing. A caption may have alternatives, one per line."""

    caption: str | None
    label: object | None


class Line(NamedTuple):
    """Entry of a list for one image.

    Args:
        number: number of the line or entry, from 1.
        image: path of the image, relative to the root.
        annotation: its caption and label.
    """

    number: int
    image: str
    annotation: Annotation


class DatasetJson(NamedTuple):
    """Labels by name (empty for no labels), and class names if given."""

    labels: Iterable[Line]
    class_names: tuple[str, ...]


def parse_json(content: bytes | str, title: str, once: bool = False) -> Any:
    """Parse a JSON text.

    Args:
        content: the text.
        title: name of the text in messages.
        once: raise if an object has one key with two different values.

    Raises:
        UsageError: if the text is not JSON, not UTF-8 or nested too deep; the message starts with ``title``.
    """
    try:
        text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
        value = json.loads(text, object_pairs_hook=_unique_keys if once else None)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeError:
        raise UsageError(f"{title}: not UTF-8 text, or with an unpaired surrogate; expected JSON") from None
    except RecursionError:
        raise UsageError(f"{title}: its JSON is nested too deep to be read") from None
    except ValueError as error:
        raise UsageError(f"{title}: not valid JSON ({error})") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if value != found[key]:
                raise ValueError(f"{key!r} occurs twice, with {value!r} and {found[key]!r}")
    return found


def caption_text(content: bytes, title: str) -> str | None:
    """Decode a text file of captions, one per line; ``None`` if it is empty.

    Raises:
        UsageError: if it is not UTF-8.
    """
    return join_alternatives(_decoded(content, title, "a caption").splitlines()) or None


def class_text(content: bytes, title: str) -> str:
    """Decode a text file with the class of an image.

    Raises:
        UsageError: if it is not UTF-8, or empty.
    """
    text = " ".join(_decoded(content, title, "a class").split())
    if not text:
        raise UsageError(f"{title}: empty; expected a class")
    return text


def _decoded(content: bytes, title: str, expected: str) -> str:
    try:
        return as_utf8(content).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{title}: not UTF-8 text; expected {expected}") from None


def annotation_in(record: object, title: str) -> Annotation:
    """Get the caption and label from a JSON object.

    Raises:
        UsageError: if it is not an object, or the caption is neither a string nor a list of strings.
    """
    if not isinstance(record, dict):
        raise UsageError(f"{title}: holds {_kind(record)}; expected an object with a caption or a label")
    caption = next((record[key] for key in _CAPTION_KEYS if record.get(key) not in (None, "", [])), None)
    captions = caption if isinstance(caption, list) else [] if caption is None else [caption]
    for text in captions:
        if not isinstance(text, str):
            which = "a caption in its list" if isinstance(caption, list) else "its caption"
            raise UsageError(f"{title}: {which} is {_kind(text)}; expected a string or a list of strings")
    label = next((record[key] for key in _LABEL_KEYS if record.get(key) is not None), None)
    return Annotation(join_alternatives(captions) or None, label)


def read_metadata(content: bytes, folder: str, title: str, take: Callable[[UsageError], None]) -> Iterator[Line]:
    """Parse the lines of a ``metadata.jsonl``.

    Args:
        content: content of the file.
        folder: folder of the file, relative to the root; ``""`` for the root.
        title: name of the file in messages.
        take: called with the error of an invalid line; the line is skipped if it returns.
    """
    for number, line in enumerate(_to_utf8(content, title).splitlines(), start=1):
        where = f"{title} line {number}"
        try:
            if line.strip():
                record = parse_json(line, where, once=True)
                annotation = annotation_in(record, where)
                yield Line(number, resolve_name(record.get("file_name"), folder, where), annotation)
        except UsageError as error:
            take(error)


def read_metadata_csv(
    content: bytes, folder: str, title: str, take: Callable[[UsageError], None]
) -> Iterator[Line] | None:
    """Parse the lines of a ``metadata.csv``, or return ``None`` for another table (no column ``file_name``).

    Labels are integers if all of them are. Arguments and errors are those of ``read_metadata``.
    """
    try:
        text = _to_utf8(content, title).decode()
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
            record |= {key: _listed(str(record[key])) for key in _CAPTION_KEYS if key in record}
            if numbers and label_of in record:
                record[label_of] = int(str(record[label_of])[:20])
            yield Line(number, resolve_name(record.get("file_name"), folder, where), annotation_in(record, where))
        except csv.Error as error:
            take(UsageError(f"{where}: not a line of a table ({error})"))
        except UsageError as error:
            take(error)


def _listed(cell: str) -> object:
    """The captions in a cell: a list of strings in JSON, or one caption."""
    try:
        found = json.loads(cell) if cell.startswith("[") else cell
    except (ValueError, RecursionError):
        return cell
    return found if isinstance(found, list) and all(isinstance(text, str) for text in found) else cell


def _csv_column(text: str, delimiter: str, columns: list[str], name: str) -> Iterator[str]:
    """Non-empty values of a column; stops at a damaged line, which reading the lines reports."""
    if not name:
        return
    place = columns.index(name)
    try:
        for number, row in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)):
            if number and len(row) == len(columns) and row[place]:
                yield row[place]
    except csv.Error:
        return


def _to_utf8(content: bytes, title: str) -> bytes:
    try:
        return as_utf8(content)
    except UnicodeDecodeError:
        raise UsageError(
            f"{title}: starts with a byte order mark, but is not valid Unicode text; save it as UTF-8"
        ) from None


def read_dataset_json(content: bytes, folder: str, title: str) -> DatasetJson | None:
    """Parse the labels of a ``dataset.json``, or return ``None`` for another file (no key ``labels``).

    Raises:
        UsageError: if it is not JSON, or not of the form that the StyleGAN tools write.
    """
    found = parse_json(content, title, once=True)
    if not isinstance(found, dict) or "labels" not in found:
        return None
    labels, names = found["labels"], found.get("class_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{title}: its class_names are not a list of strings; fix it or set data.labels=none")
    if labels is None:
        return DatasetJson((), tuple(names))
    return DatasetJson(_entries(labels, folder, title), tuple(names))


def _entries(labels: object, folder: str, title: str) -> Iterator[Line]:
    pairs = labels.items() if isinstance(labels, dict) else labels if isinstance(labels, list) else [None]
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise UsageError(f'{title}: its labels are not of the form [["name.png", 3], ...]; fix it')
        yield Line(number, resolve_name(pair[0], folder, title), Annotation(None, pair[1]))


def resolve_name(name: object, folder: str, title: str) -> str:
    """Path relative to the root of an image named relative to ``folder``.

    Raises:
        UsageError: if there is no name, or it leads out of the folder.
    """
    if not isinstance(name, str) or not name:
        raise UsageError(f"{title}: names no image; expected a file_name")
    place = posixpath.normpath(name.replace("\\", "/"))
    if place.startswith(("../", "/")) or place == "..":
        raise UsageError(f"{title}: {name!r} leads out of its folder; expected a path inside it")
    return f"{folder}/{place}" if folder else place


def _kind(value: object) -> str:
    words = {type(None): "null", list: "a list", str: "a string", bool: "true or false", dict: "an object"}
    return words.get(type(value), "a number")
