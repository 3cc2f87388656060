"""``config.json`` of a run or a saved model: validated on reading, and compared with the copy saved with the weights.

The file contains its checksum, and weights and checkpoints contain a copy of the keys that affect the result. A value
that was modified since is reported with its key. A user who wants the change confirms it with ``accept``, which adds
the checksum of the replaced configuration to the file; weights and checkpoints are not modified.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from undiffuse.checksums import CHECKSUM, changes, checksum_of, read_json, with_checksum
from undiffuse.config import validate
from undiffuse.errors import UsageError
from undiffuse.files import write_json
from undiffuse.models.files.components import components_of
from undiffuse.wording import command

#: Version of the layout of ``config.json``, weights and checkpoints; ``components`` reads the first.
FORMAT_VERSION = 2
#: Key with the checksums of the configurations that this one replaces.
REPLACES = "replaces"
#: Upper bounds of the numbers per sample and of classes; files with larger values are invalid.
_LARGEST_SAMPLE, _MOST_NAMES = 2**28, 1_000_000
_SHOWN_CHANGES = 4
#: Keys that depend on the machine and do not affect the result, and their replacements in copies.
_MACHINE_KEYS = {
    ("config", "loader"): None,
    ("config", "data", "cache"): None,
    ("config", "data", "path"): "data",
    ("config", "start", "path"): "start",
    ("config", "system", "text", "folder"): "text",
    ("components", "model", "config", "text", "folder"): "text",
}


class NewerFormatError(UsageError):
    """Raised for files that were written by a newer version of undiffuse."""


class ModelSection(BaseModel):
    """The section ``model``: properties of the data that are needed to build the model.

    Args:
        shape: shape of a sample, (C, H, W) or (D,).
        class_names: class names of the data.
        augment_labels: names of the transformations that the network is conditioned on.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    shape: Annotated[list[Annotated[int, Field(ge=1, le=_LARGEST_SAMPLE)]], Field(min_length=1, max_length=3)]
    class_names: Annotated[list[str], Field(max_length=_MOST_NAMES)]
    augment_labels: Annotated[list[str], Field(max_length=_MOST_NAMES)] = []


class DataSection(BaseModel):
    """The section ``data``: the training data.

    Args:
        fingerprint: fingerprint of the training split.
        train, validation: number of items in each split.
        validation_fingerprint: fingerprint of the held-out split; not recorded by earlier versions.
        storage_record: properties of the image files that are lost in 8-bit greyscale or RGB; not recorded by earlier
            versions.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    fingerprint: str
    train: Annotated[int, Field(ge=0)]
    validation: Annotated[int, Field(ge=0)]
    validation_fingerprint: str | None = None
    storage_record: dict[str, str] | None = None


def check_format(version: object, what: str) -> None:
    """Check that this version can read a file.

    Args:
        version: the value of ``format_version`` in the file.
        what: name of the file in the message.
    Raises:
        NewerFormatError: if a newer version wrote it.
    """
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{what} has format_version {version!r}, this undiffuse reads up to {FORMAT_VERSION}; upgrade undiffuse"
        )


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a run or model folder and validate its types; its checksum is not verified.

    Raises:
        UsageError: if it is missing, invalid, or written by a newer version.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder} is not a run or model folder: it has no config.json")
    try:
        record = read_json(path)
        version = record["format_version"]
        missing = {"config", "model", "data"} - set(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged or not a configuration of undiffuse ({error})") from None
    check_format(version, str(path))
    if missing:
        raise UsageError(f"{path} lacks {', '.join(sorted(missing))}; it is damaged or not from undiffuse")
    for section in ("config", "model", "data"):
        if not isinstance(record[section], dict):
            raise UsageError(f"{path}: {section} must be an object, got {type(record[section]).__name__}")
    model = validate(ModelSection, record["model"], f"{path}: model")
    validate(DataSection, record["data"], f"{path}: data")
    _check_size(model.shape, path)
    return dict(record)


def _check_size(shape: list[int], path: Path) -> None:
    numbers = 1
    for size in shape:
        numbers *= size
    if numbers > _LARGEST_SAMPLE or len(shape) == 2:
        raise UsageError(f"{path}: model key 'shape': expected (C, H, W) or (D,) of a sample, got {shape}")


def changed_data_part(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name of the split in which two sections ``data`` differ; "" if there is no recorded difference.

    Args:
        before: the recorded section ``data``.
        now: the section ``data`` of the current data.
    """
    if before["fingerprint"] != now["fingerprint"]:
        return "data"
    known = all(section.get("validation_fingerprint") is not None for section in (before, now))
    key = "validation_fingerprint" if known else "validation"
    return "held-out data" if before.get(key) != now.get(key) else ""


def result_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The copy of a record in weights and checkpoints; it does not depend on the location of the data."""
    result = copy.deepcopy({key: value for key, value in record.items() if key not in (CHECKSUM, REPLACES)})
    for (*sections, key), replacement in _MACHINE_KEYS.items():
        section = _section(result, sections)
        if section.pop(key, None) is not None and replacement is not None:
            section[key] = replacement
    return result


def _section(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A section of a record; an empty dictionary if there is none."""
    section: Any = record
    for name in names:
        section = section.get(name) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else {}


def check_belongs(folder: Path, record: Mapping[str, Any], saved: Mapping[str, Any] | None, what: str) -> None:
    """Check that ``config.json`` is the one that weights or a checkpoint were saved with, or an accepted change of it.

    Args:
        folder: folder of the model or run, for the message.
        record: content of its ``config.json``.
        saved: the copy in the weights or the checkpoint; None in those of earlier versions.
        what: name of the weights or the checkpoint, for the message.
    Raises:
        UsageError: if the configuration differs and the change was not accepted.
    """
    if saved is not None and checksum_of(saved) not in _accepted(record):
        raise changed_config_error(folder, record, saved, f"{what} was saved")


def _accepted(record: Mapping[str, Any]) -> set[str]:
    """Checksums of the copies that match a record: its own, and those that it replaces."""
    earlier = record.get(REPLACES, [])
    return {checksum_of(result_record(record)), *(map(str, earlier) if isinstance(earlier, list) else ())}


def differences(record: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` for each difference between a record and its saved copy.

    Args:
        record: content of ``config.json``.
        saved: the copy in weights or a checkpoint, see ``result_record``.
    """
    return list(changes(saved, result_record(record)))


def changed_config_error(
    folder: Path, record: Mapping[str, Any], saved: Mapping[str, Any] | None, since: str
) -> UsageError:
    """The error for a modified configuration, with the differences and how to restore or accept it.

    Args:
        folder: folder of the model or run.
        record: content of its ``config.json``.
        saved: the copy in weights or a checkpoint; None if there is none.
        since: the event after which it was modified, such as "it was written".
    """
    differs = differences(record, saved) if saved is not None else []
    more = f"; and {len(differs) - _SHOWN_CHANGES} more" if len(differs) > _SHOWN_CHANGES else ""
    named = f" ({'; '.join(differs[:_SHOWN_CHANGES])}{more})" if differs else ""
    advice = (
        f"restore it with: {command('seal', '--restore', folder)}" if saved is not None else "restore an intact copy"
    )
    return UsageError(
        f"{folder / 'config.json'} was changed after {since}{named}; {advice}, or accept the change with: "
        f"{command('seal', folder)}"
    )


def write_record(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``config.json`` with its checksum; returns the written content.

    Args:
        folder: existing folder of the model or run.
        record: all sections.
    """
    written = with_checksum(record)
    write_json(folder / "config.json", written)
    return written


def accept(folder: Path, saved: Sequence[Mapping[str, Any]], record: Mapping[str, Any] | None = None) -> list[str]:
    """Accept a modified ``config.json``.

    Args:
        folder: folder of the model or run.
        saved: all copies in weights and checkpoints.
        record: the new content; the current content by default.
    Returns:
        The differences from the first copy.
    Raises:
        UsageError: if the configuration is invalid.
    """
    record = record if record is not None else read_record(folder)
    components_of(record)
    checksum = checksum_of(result_record(record))
    earlier = {*_accepted(record), *map(checksum_of, saved)} - {checksum}
    write_record(folder, {**record, REPLACES: sorted(earlier)} if earlier else record)
    return differences(record, saved[0]) if saved else []


def restore(folder: Path, saved: Mapping[str, Any]) -> None:
    """Restore a copy; the data's location and loading options are kept from ``config.json`` if it can be read.

    Args:
        folder: folder of the model or run.
        saved: the copy in weights or a checkpoint.
    """
    record = copy.deepcopy(dict(saved))
    with contextlib.suppress(UsageError):
        current = read_record(folder)
        for *sections, key in _MACHINE_KEYS:
            if key in (section := _section(current, sections)):
                _section(record, sections)[key] = section[key]
    write_record(folder, record)
