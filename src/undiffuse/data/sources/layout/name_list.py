"""Lists of the names and tags of things, which images are matched with by their file name or caption.

Formats: a JSON list of objects (such as ``emojibase-data``), an object per line, or a table with a header. The key is
the first of ``hexcode``, ``stem``, ``file``, ``file_name``, ``key`` and ``id``, the name of ``name``, ``label``,
``caption``, ``text`` and ``title``; tags are ``tags`` or ``keywords``, a list or a text with commas.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from undiffuse.data.readers.text import as_utf8
from undiffuse.data.sources.layout.metadata import MAX_LIST_BYTES, parse_json
from undiffuse.errors import UsageError

_KEYS = ("hexcode", "stem", "file", "file_name", "key", "id")
_NAMES = ("name", "label", "caption", "text", "title")
_TAGS = ("tags", "keywords")
_SELECTOR = "fe0f"  # code point that requests an emoji's coloured form; some file names leave it out


class Entry(NamedTuple):
    """A name, and its tags."""

    name: str
    tags: tuple[str, ...]


class NameList:
    """Entries by key and by name; both are compared without case, punctuation and white space.

    Args:
        entries: pairs of key and entry; of several for one key the first is used.
        ignored_words: words of the looked-up texts that are disregarded.
    """

    def __init__(self, entries: Iterable[tuple[str, Entry]], ignored_words: Sequence[str] = ()) -> None:
        self._ignored = {_plain(word) for word in ignored_words}
        self._by_key: dict[str, Entry] = {}
        self._by_name: dict[str, Entry] = {}
        for key, entry in entries:
            self._by_key.setdefault(_plain(key), entry)
            self._by_name.setdefault(_plain(entry.name), entry)

    def find(self, stem: str, caption: str) -> Entry | None:
        """The entry of an image, by its file name, else by its caption; ``None`` if there is none.

        Args:
            stem: file name without folder and ending.
            caption: the image's own caption; empty if it has none.
        """
        for text in (stem, _without(stem, self._ignored), caption, _without(caption, self._ignored)):
            if (plain := _plain(text)) and (found := self._by_key.get(plain) or self._by_name.get(plain)):
                return found
        return None


def words_of_stem(stem: str, ignored_words: Sequence[str] = ()) -> str:
    """A file name as words: ``red_rose-final`` is ``red rose`` if ``final`` is ignored."""
    return " ".join(_without(stem, {_plain(word) for word in ignored_words}).split())


def read_name_list(path: Path, ignored_words: Sequence[str] = ()) -> NameList:
    """Read a list of names.

    Args:
        path: the file.
        ignored_words: see ``NameList``.

    Raises:
        UsageError: the file is missing, too large or has another form.
    """
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise UsageError(f"{path}: {path.stat().st_size} bytes exceed the limit of {MAX_LIST_BYTES} for a list")
        text = as_utf8(path.read_bytes()).decode()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); expected the list data.names") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text; expected a list of names") from None
    entries = [_entry(record, f"{path} entry {number}") for number, record in enumerate(_records(text, str(path)), 1)]
    if not entries:
        raise UsageError(f"{path}: no entries; expected a list of names")
    return NameList(entries, ignored_words)


def _records(text: str, title: str) -> Iterator[object]:
    """The objects of a list, of lines, or of a table."""
    if text.lstrip().startswith("["):
        yield from parse_json(text, title)
    elif text.lstrip().startswith("{"):
        lines = enumerate(text.splitlines(), start=1)
        yield from (parse_json(line, f"{title} line {number}") for number, line in lines if line.strip())
    else:
        yield from csv.DictReader(io.StringIO(text, newline=""))


def _entry(record: object, title: str) -> tuple[str, Entry]:
    if not isinstance(record, Mapping):
        raise UsageError(f"{title}: not an object; expected one with a key and a name")
    key, name = (next((record[key] for key in keys if record.get(key)), None) for keys in (_KEYS, _NAMES))
    tags = next((record[key] for key in _TAGS if record.get(key)), ())
    tags = [tag.strip() for tag in tags.split(",")] if isinstance(tags, str) else tags
    are_tags = isinstance(tags, (list, tuple)) and all(isinstance(tag, str) for tag in tags)
    if not isinstance(name, str) or not are_tags:
        raise UsageError(f"{title}: no name or no tags; expected {' or '.join(_NAMES)}, and tags as a list of strings")
    key = name if key is None else str(key)
    stem = PurePosixPath(key).stem if key.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".gif")) else key
    return stem, Entry(name, tuple(dict.fromkeys(tag for tag in tags if tag)))


def _plain(text: str) -> str:
    """Letters and digits alone, in lower case."""
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text).lower())
    return "".join(word for word in words if word != _SELECTOR)


def _without(text: str, ignored: set[str]) -> str:
    """The words of a text except for the ignored ones."""
    return " ".join(word for word in re.split(r"[\s_-]+", text) if word and _plain(word) not in ignored)
