"""Labels and captions that a file lists for many pictures, and what a JSON record says of one.

Read are ``metadata.jsonl`` as Hugging Face's ``imagefolder`` has it (one object a line: ``file_name``, relative to the
file's own folder, and any of ``caption``/``text``/``prompt`` and ``label``/``class``), and the ``dataset.json`` of the
StyleGAN and EDM tools: ``{"labels": [["00000/img00000000.png", 3], ...]}`` with ``null`` for no labels. Beside the
labels, ``"class_names"`` may list the classes' names, which those tools pass over.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from undiffuse.errors import UsageError

METADATA, DATASET = "metadata.jsonl", "dataset.json"
MAX_NOTE_BYTES = 2**20  # of a text beside one picture
MAX_LIST_BYTES = 2**29  # of a list of all pictures
_CAPTION_KEYS = ("caption", "text", "prompt")
_LABEL_KEYS = ("label", "class")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # which JSON can say and no text can hold; two make a whole one


class Said(NamedTuple):
    """What a record says of one picture; ``None`` where it says nothing."""

    caption: str | None
    label: object | None


class DatasetJson(NamedTuple):
    """Label of each name (empty for none), and names of classes where they are given."""

    labels: dict[str, object]
    class_names: tuple[str, ...]


def parse_json(content: bytes | str, title: str) -> Any:
    """The value of a JSON text.

    Raises:
        UsageError: not JSON, not UTF-8 or nested without end; the message begins with ``title``.
    """
    try:
        text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
        value = json.loads(text)
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeError:
        raise UsageError(f"{title}: not UTF-8 text, or half a character in it; expected JSON") from None
    except RecursionError:
        raise UsageError(f"{title}: its JSON is nested too deep to be read") from None
    except ValueError as error:
        raise UsageError(f"{title}: not valid JSON ({error})") from None


def caption_text(content: bytes, title: str) -> str:
    """A caption in one line.

    Raises:
        UsageError: not UTF-8, or empty.
    """
    try:
        text = " ".join(content.decode("utf-8-sig").split())
    except UnicodeDecodeError:
        raise UsageError(f"{title}: not UTF-8 text; expected a caption") from None
    if not text:
        raise UsageError(f"{title}: empty; expected a caption")
    return text


def said_in(record: object, title: str) -> Said:
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
    return Said(caption or None, next((record[key] for key in _LABEL_KEYS if record.get(key) is not None), None))


def read_metadata(
    content: bytes, folder: str, title: str, take: Callable[[UsageError], None]
) -> Iterator[tuple[str, Said]]:
    """(name of a picture, what is said of it) of each line of a ``metadata.jsonl``.

    Args:
        content: of the file.
        folder: it lies in, relative to the root; ``""`` for the root.
        title: of the file in messages.
        take: is given what is wrong with a line; the line is passed over if it returns.
    """
    for number, line in enumerate(content.splitlines(), start=1):
        where = f"{title} line {number}"
        try:
            if line.strip():
                record = parse_json(line, where)
                said = said_in(record, where)
                yield place_of(record.get("file_name"), folder, where), said
        except UsageError as error:
            take(error)


def read_dataset_json(content: bytes, folder: str, title: str) -> DatasetJson | None:
    """The labels of a ``dataset.json``, or ``None`` where it is a file of another kind (no key ``labels``).

    Raises:
        UsageError: not JSON, or not of the form that the StyleGAN tools write.
    """
    found = parse_json(content, title)
    if not isinstance(found, dict) or "labels" not in found:
        return None
    labels, names = found["labels"], found.get("class_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{title}: its class_names are no list of texts; mend it or take labels=none")
    if labels is None:
        return DatasetJson({}, tuple(names))
    pairs = labels.items() if isinstance(labels, dict) else labels
    try:
        return DatasetJson({place_of(name, folder, title): label for name, label in pairs}, tuple(names))
    except UsageError:
        raise
    except (TypeError, ValueError):
        raise UsageError(f'{title}: its labels are not of the form [["name.png", 3], ...]; mend it') from None


def place_of(name: object, folder: str, title: str) -> str:
    """The path from the root of a picture named relative to ``folder``.

    Raises:
        UsageError: no name, or one that leads out of the folder.
    """
    if not isinstance(name, str) or not name:
        raise UsageError(f"{title}: names no picture; expected a file_name")
    place = posixpath.normpath(name.replace("\\", "/"))
    if place.startswith(("../", "/")) or place == "..":
        raise UsageError(f"{title}: {name!r} leads out of its folder; expected a name below it")
    return f"{folder}/{place}" if folder else place


def _kind(value: object) -> str:
    words = {type(None): "null", list: "a list", str: "a text", bool: "true or false", dict: "an object"}
    return words.get(type(value), "a number")
