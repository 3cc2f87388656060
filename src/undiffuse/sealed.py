"""JSON records with a checksum of their own: a digit that changed on the disk does not pass for what was written.

The checksum is of the values as they stand in the file, ordered by key, and of no default that a version fills in: a
record that another version, or another formatting of the same values, wrote stays sound. Any room may import this
module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from undiffuse.errors import UsageError

#: The key that holds the checksum of all others.
CHECKSUM = "checksum"
#: No record of ours comes near either; a larger file is not read into memory, a deeper one has no end.
MAX_BYTES, MAX_DEPTH = 64 * 2**20, 64
_LONGEST_VALUE = 60


def checksum_of(record: Mapping[str, Any]) -> str:
    """SHA-256 over all values of a record but its own checksum, as 64 hex digits."""
    return hashlib.sha256(json.dumps(without_checksum(record), sort_keys=True).encode()).hexdigest()


def without_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says, to be put into another."""
    return {key: value for key, value in record.items() if key != CHECKSUM}


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it is written: plain JSON, with its checksum last."""
    plain = json.loads(json.dumps(without_checksum(record)))
    return {**plain, CHECKSUM: checksum_of(plain)}


def is_changed(record: Mapping[str, Any]) -> bool:
    """Whether a record differs from what was written; one without a checksum cannot tell."""
    return CHECKSUM in record and record[CHECKSUM] != checksum_of(record)


def parse_json(content: bytes | str) -> Any:
    """JSON as Python values.

    Raises:
        ValueError: it is none, or nested too deeply to be one of ours.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError("nested too deeply")


def _inside(value: Any) -> Iterable[Any]:
    """The values that a list or an object holds and that may hold others."""
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (inner for inner in held if isinstance(inner, dict | list))


def read_json(path: Path) -> Any:
    """The JSON in a file.

    Raises:
        ValueError: it is none, nested too deeply, or far larger than any record.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
    return parse_json(content)


def read_sealed(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a file of JSON, compared with its checksum where it has one.

    Args:
        remedy: what to do about a file that is not sound.
    Raises:
        UsageError: it cannot be read, is no JSON object, or was changed after it was written.
    """
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is damaged ({error}); {remedy}") from None
    if not isinstance(record, dict):
        raise UsageError(f"{path} is damaged: expected a JSON object, got {type(record).__name__}; {remedy}")
    if is_changed(record):
        raise UsageError(f"{path} was changed after it was written: it does not match its checksum; {remedy}")
    return record


def changes(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """``key: old -> new`` for every value in which two records differ, their checksums aside."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        if repr(old) != repr(new):
            yield f"{prefix}: {_short(old)} -> {_short(new)}"
        return
    for key in [*old, *(key for key in new if key not in old)]:
        if key != CHECKSUM:
            yield from changes(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
