"""``config.json`` of a run or a saved model: read without trust, and compared with what the weights were saved with.

The file ends with a checksum of its own, and weights and checkpoints keep a copy of what of it decides on the result.
A value that changed since, by a hand or on the disk, is refused by name. Whoever means the change says so with
``accept``, which notes in the file what it replaces: neither weights nor checkpoints are touched.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from undiffuse.config import validate
from undiffuse.errors import UsageError
from undiffuse.files import write_json
from undiffuse.models.files.components import components_of
from undiffuse.sealed import CHECKSUM, changes, checksum_of, read_json, sealed
from undiffuse.wording import command

#: Version of the layout of ``config.json``, weights and checkpoints; ``components`` reads the first.
FORMAT_VERSION = 2
#: Key with the checksums of the configurations that this one takes the place of.
REPLACES = "replaces"
#: No sample is larger, nor has any set more classes: a file that says so is none of ours.
_LARGEST_SAMPLE, _MOST_NAMES = 2**28, 1_000_000
_SHOWN_CHANGES = 4
#: Keys of ``config`` that say where and how fast and nothing of what comes out, and what copies have in their place.
_OF_THE_MACHINE = {("loader",): None, ("data", "cache"): None, ("data", "path"): "data"}


class NewerFormatError(UsageError):
    """Written by a later version of this program."""


class ModelSection(BaseModel):
    """The section ``model``: all of the data that building the model needs.

    Args:
        shape: of a sample, (C, H, W) or (D,).
        class_names: of the data.
        augment_labels: names of the transformations that the network is conditioned on.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    shape: Annotated[list[Annotated[int, Field(ge=1, le=_LARGEST_SAMPLE)]], Field(min_length=1, max_length=3)]
    class_names: Annotated[list[str], Field(max_length=_MOST_NAMES)]
    augment_labels: Annotated[list[str], Field(max_length=_MOST_NAMES)] = []


class DataSection(BaseModel):
    """The section ``data``: what training saw.

    Args:
        fingerprint: of the training part.
        train, validation: items in each part.
        validation_fingerprint: of the held-out part; earlier versions kept none.
        storage_record: what the images' files held that 8 bits of grey or RGB do not; earlier versions did not say.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    fingerprint: str
    train: Annotated[int, Field(ge=0)]
    validation: Annotated[int, Field(ge=0)]
    validation_fingerprint: str | None = None
    storage_record: dict[str, str] | None = None


def check_format(version: object, what: str) -> None:
    """Refuse a layout that this version does not know.

    Args:
        version: the value of ``format_version`` in the file.
        what: the file is called in the message.
    Raises:
        NewerFormatError: a later version wrote it.
    """
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{what} has format_version {version!r}, this undiffuse reads up to {FORMAT_VERSION}; upgrade undiffuse"
        )


def read_record(folder: Path) -> dict[str, Any]:
    """``config.json`` of a run or model folder, whole and of the right types; its checksum is not looked at.

    Raises:
        UsageError: not there, not readable, or written by a newer version.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder} is no run or model folder: it has no config.json")
    try:
        record = read_json(path)
        version = record["format_version"]
        lacking = {"config", "model", "data"} - set(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged or no configuration of undiffuse ({error})") from None
    check_format(version, str(path))
    if lacking:
        raise UsageError(f"{path} lacks {', '.join(sorted(lacking))}; it is damaged or not from undiffuse")
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
    """Which part of two sections ``data`` is not the same, in words; "" where neither is, so far as both say.

    Args:
        before: the section ``data`` as it was recorded.
        now: the section of the data as they are.
    """
    if before["fingerprint"] != now["fingerprint"]:
        return "data"
    known = all(section.get("validation_fingerprint") is not None for section in (before, now))
    key = "validation_fingerprint" if known else "validation"
    return "held-out data" if before.get(key) != now.get(key) else ""


def result_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """What weights and checkpoints keep of a record: equal weights have equal files, wherever their data lay."""
    kept = copy.deepcopy({key: value for key, value in record.items() if key not in (CHECKSUM, REPLACES)})
    for (*sections, key), instead in _OF_THE_MACHINE.items():
        place = _section(kept, sections)
        if place.pop(key, None) is not None and instead is not None:
            place[key] = instead
    return kept


def _section(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A section of the part ``config``; an empty one where there is none."""
    place: Any = record.get("config")
    for name in names:
        place = place.get(name) if isinstance(place, dict) else None
    return place if isinstance(place, dict) else {}


def check_belongs(folder: Path, record: Mapping[str, Any], kept: Mapping[str, Any] | None, what: str) -> None:
    """Refuse a ``config.json`` that is sound, but not the one that weights or a checkpoint were saved with.

    Args:
        folder: of the model or run, for the message.
        record: its read ``config.json``.
        kept: the copy that weights or checkpoint hold; none in those of earlier versions.
        what: they are, for the message.
    Raises:
        UsageError: another configuration, which nobody has accepted.
    """
    if kept is not None and checksum_of(kept) not in _accepted(record):
        raise changed(folder, record, kept, f"{what} was saved")


def _accepted(record: Mapping[str, Any]) -> set[str]:
    """Checksums of the copies that go with a record: its own, and those that it takes the place of."""
    earlier = record.get(REPLACES, [])
    return {checksum_of(result_record(record)), *(map(str, earlier) if isinstance(earlier, list) else ())}


def differences(record: Mapping[str, Any], kept: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` for what differs in a record from a copy that was kept of it.

    Args:
        record: a read ``config.json``.
        kept: the copy that weights or a checkpoint hold, see ``result_record``.
    """
    return list(changes(kept, result_record(record)))


def changed(folder: Path, record: Mapping[str, Any], kept: Mapping[str, Any] | None, since: str) -> UsageError:
    """The complaint about a configuration that was changed: what differs, and both ways out.

    Args:
        folder: of the model or run.
        record: its read ``config.json``.
        kept: the copy that weights or a checkpoint hold; None where there is none.
        since: what it was changed after, such as "it was written".
    """
    differs = differences(record, kept) if kept is not None else []
    more = f"; and {len(differs) - _SHOWN_CHANGES} more" if len(differs) > _SHOWN_CHANGES else ""
    named = f" ({'; '.join(differs[:_SHOWN_CHANGES])}{more})" if differs else ""
    back = f"put it back with: {command('seal', '--restore', folder)}" if kept is not None else "put a sound copy back"
    return UsageError(
        f"{folder / 'config.json'} was changed after {since}{named}; {back}, or if it is meant: "
        f"{command('seal', folder)}"
    )


def write_record(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``config.json`` with its checksum; returns what was written.

    Args:
        folder: of the model or run, which is there.
        record: all sections.
    """
    written = sealed(record)
    write_json(folder / "config.json", written)
    return written


def accept(folder: Path, kept: Sequence[Mapping[str, Any]], record: Mapping[str, Any] | None = None) -> list[str]:
    """Take ``config.json`` as it stands for what is meant.

    Args:
        folder: of the model or run.
        kept: all copies that weights and checkpoints hold.
        record: as it is to stand; by default as it does.
    Returns:
        What differs from the first of the copies.
    Raises:
        UsageError: it is no configuration.
    """
    record = record if record is not None else read_record(folder)
    components_of(record)
    own = checksum_of(result_record(record))
    earlier = {*_accepted(record), *map(checksum_of, kept)} - {own}
    write_record(folder, {**record, REPLACES: sorted(earlier)} if earlier else record)
    return differences(record, kept[0]) if kept else []


def restore(folder: Path, kept: Mapping[str, Any]) -> None:
    """Put back a copy; where data lie and how they are loaded is taken from ``config.json``, if it can be read.

    Args:
        folder: of the model or run.
        kept: the copy that weights or a checkpoint hold.
    """
    record = copy.deepcopy(dict(kept))
    with contextlib.suppress(UsageError):
        now = read_record(folder)
        for *sections, key in _OF_THE_MACHINE:
            if key in (found := _section(now, sections)):
                _section(record, sections)[key] = found[key]
    write_record(folder, record)
