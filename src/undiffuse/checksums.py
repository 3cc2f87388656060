"""JSON records that contain their own checksum, so that changes after writing are detected.

The checksum is computed over the values in the file, sorted by key, and not over defaults that a version adds: a record
stays valid in another version and with another formatting of the same values. Any package may import this module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from undiffuse.errors import UsageError

#: The key of the checksum over all other keys.
CHECKSUM = "checksum"
#: Far above any record of this package; a larger file is not read into memory, a deeper one not parsed.
MAX_BYTES, MAX_DEPTH = 64 * 2**20, 64
_LONGEST_VALUE = 60


def checksum_of(record: Mapping[str, Any]) -> str:
    """SHA-256 over all values of a record except its checksum, as 64 hex digits."""
    return hashlib.sha256(json.dumps(without_checksum(record), sort_keys=True).encode()).hexdigest()


def without_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without its checksum, to be included in another record."""
    return {key: value for key, value in record.items() if key != CHECKSUM}


def with_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it is written: plain JSON values, with its checksum as the last key."""
    plain = json.loads(json.dumps(without_checksum(record)))
    return {**plain, CHECKSUM: checksum_of(plain)}


def is_modified(record: Mapping[str, Any]) -> bool:
    """Whether a record does not match its checksum; False for a record without one."""
    return CHECKSUM in record and record[CHECKSUM] != checksum_of(record)


def parse_json(content: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: the content is not JSON, or nested too deeply.
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
    """The lists and objects directly inside a value."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (inner for inner in values if isinstance(inner, dict | list))


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        ValueError: the file is not JSON, nested too deeply, or far larger than any record.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
    return parse_json(content)


def read_checked(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object from a file and verify its checksum, if it has one.

    Args:
        path: the file.
        remedy: advice for the message if the file is invalid.
    Raises:
        UsageError: the file cannot be read, is not a JSON object, or was changed after it was written.
    """
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is damaged ({error}); {remedy}") from None
    if not isinstance(record, dict):
        raise UsageError(f"{path} is damaged: expected a JSON object, got {type(record).__name__}; {remedy}")
    if is_modified(record):
        raise UsageError(f"{path} was changed after it was written: it does not match its checksum; {remedy}")
    return record


def changes(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """``key: old -> new`` for every value that differs between two records, except the checksums."""
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
