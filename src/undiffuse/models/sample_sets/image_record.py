"""The record inside an image file: how it was sampled, as JSON for this package and as text for image viewers.

A PNG has two texts: ``undiffuse``, a JSON object with a checksum, and ``parameters``, one line of settings below the
prompt, which many image viewers show. Neither contains a path or the time. Does not import torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undiffuse.checksums import is_modified, parse_json, with_checksum, without_checksum
from undiffuse.config import short_repr
from undiffuse.errors import UsageError
from undiffuse.limits import IMAGE_SEED_BITS
from undiffuse.models.options import option_rows
from undiffuse.models.sample_sets.text_chunks import read_texts
from undiffuse.registry import known_keywords
from undiffuse.version import __version__

#: Keys of the texts in the file, and the format of the JSON object.
KEY, VIEWER_KEY, FORMAT = "undiffuse", "parameters", 1
#: The initial image is identified by these keys only: its path stays private.
_OF_IMAGE = ("sha256", "data_fingerprint")
#: Entries of ``samples.json`` that depend on the other samples of the set, or on its files.
_OF_SET = ("file", "row", "nfe", "partial_nfe")
#: Entries that may differ between the samples of a grid, whose record has the first seed only.
PER_SAMPLE = ("class", "prompt", "negative")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_SETTING = 1000
_HASH_DIGITS = 10  # as other programs shorten it
#: Type of the value by key; options of sampling are checked as such.
_TYPES: dict[str, tuple[type, ...]] = {
    "format": (int,),
    "undiffuse": (str,),
    "model": (str,),
    "model_sha256": (str,),
    "recipe": (str,),
    "seed": (int,),
    "class": (str, type(None)),
    "prompt": (str, type(None)),
    "negative": (str, type(None)),
    "classifier_sha256": (str,),
    "image": (dict,),
    "size": (list,),
    "num": (int,),
    "computed_with": (dict,),
}
_REQUIRED = ("format", "undiffuse", "model", "model_sha256", "seed", "computed_with")


def image_record(row: Mapping[str, Any], size: tuple[int, int] | None, setting: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object of one image.

    Args:
        row: its entry in ``samples.json``.
        size: (height, width) of one sample in pixels; None for points.
        setting: arithmetic settings, see ``compute_environment``.
    """
    entries = {key: _without_path(key, value) for key, value in row.items() if key not in _OF_SET}
    if isinstance(image := entries.get("image"), Mapping):
        entries["image"] = {key: image[key] for key in _OF_IMAGE if key in image}
    about = {"format": FORMAT, "undiffuse": __version__}
    of_size = {} if size is None else {"size": list(size)}
    return with_checksum({**about, **of_size, **entries, "computed_with": dict(setting)})


def _without_path(key: str, value: Any) -> Any:
    """The name of a file or folder instead of its path; other values unchanged."""
    if isinstance(value, str) and key not in PER_SAMPLE and (value.startswith("~") or Path(value).is_absolute()):
        return Path(value).name
    return value


def texts_of(record: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a PNG by key: the record as JSON, and for image viewers."""
    return {KEY: _json(record), VIEWER_KEY: viewer_text(record)}


def viewer_text(record: Mapping[str, Any]) -> str:
    """The settings as image viewers show them: prompt, negative prompt, and one line of ``Name: value``.

    Example:
        >>> viewer_text({"prompt": "a cat", "sampler": "heun", "steps": 9, "seed": 1})
        'a cat\\nSteps: 9, Sampler: heun, Seed: 1'
    """
    height, width = record.get("size") or (None, None)
    sha256 = record.get("model_sha256")
    values = {
        "Steps": record.get("steps"),
        "Sampler": record.get("sampler"),
        "Schedule type": record.get("grid"),
        "CFG scale": record.get("guidance"),
        "Seed": record.get("seed"),
        "Size": f"{width}x{height}" if width else None,
        "Model hash": sha256[:_HASH_DIGITS] if sha256 else None,
        "Model": record.get("model"),
        "Class": record.get("class"),
        "Version": f"undiffuse {record['undiffuse']}" if "undiffuse" in record else None,
    }
    settings = ", ".join(f"{name}: {_quoted(value)}" for name, value in values.items() if value is not None)
    prompt, negative = record.get("prompt"), record.get("negative")
    lines = [prompt] if prompt else []
    lines += [f"Negative prompt: {negative}"] if negative else []
    return "\n".join([*lines, settings]).replace("\0", " ").encode("utf-8", "replace").decode("utf-8")


@known_keywords
def read_record(image: str | Path) -> dict[str, Any]:
    """How an image was sampled, from the record in its file.

    Args:
        image: a PNG that ``undiffuse sample`` or ``Samples.save`` wrote.
    Returns:
        Entries as in ``samples.json``: ``model``, ``model_sha256``, ``seed``, ``class``, ``sampler``, ``steps``, ...;
        and ``undiffuse``, the version, ``size``, (height, width), and ``computed_with``.
    Raises:
        UsageError: if the file is not such an image, or its record is absent, damaged, changed or of a newer version.
    """
    path = Path(image).expanduser()
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give one image in it, such as {path / '000000.png'}")
    texts = read_texts(path, (KEY, VIEWER_KEY))
    if KEY not in texts:
        raise UsageError(_absent(path, VIEWER_KEY in texts))
    try:
        record = parse_json(texts[KEY])
    except ValueError as error:
        raise UsageError(f"the record in {path} is damaged ({error}); use an intact copy") from None
    _check(path, record)
    return without_checksum(record)


def unknown_keys(record: Mapping[str, Any]) -> list[str]:
    """Keys of a record that this version does not know."""
    return sorted(record.keys() - _TYPES.keys() - {row.key for row in option_rows().values()})


def _absent(path: Path, foreign: bool) -> str:
    if foreign:
        return (
            f"{path} has the settings of another program, not a record of undiffuse; give an image that "
            "'undiffuse sample' wrote"
        )
    return (
        f"{path} has no record: it was written with --no-record, or saved again by a program that left it out; give "
        "the original file, or MODEL, --seed and the options in its samples.json"
    )


def _check(path: Path, record: Any) -> None:
    """Check the types of a record's entries.

    Raises:
        UsageError: naming the first entry that is wrong.
    """
    problem = f"the record in {path} is damaged"
    if not isinstance(record, dict):
        raise UsageError(f"{problem}: expected a JSON object, got {type(record).__name__}; use an intact copy")
    version = record.get("format")
    if type(version) is int and version > FORMAT:
        raise UsageError(
            f"the record in {path} has format {version}, this version of undiffuse reads {FORMAT}; update undiffuse"
        )
    if is_modified(record):
        raise UsageError(
            f"the record in {path} was changed after it was written: it does not match its checksum; use the original "
            "file, and options of 'undiffuse sample' to vary it"
        )
    for key in _REQUIRED:
        if key not in record:
            raise UsageError(f"{problem}: it lacks {key!r}; use an intact copy")
    for key, types in _TYPES.items():
        if key in record and (not isinstance(record[key], types) or isinstance(record[key], bool)):
            raise UsageError(f"{problem}: {key!r} is {short_repr(record[key])}; use an intact copy")
    valid = {
        "model_sha256": _SHA256.fullmatch(record["model_sha256"]) is not None,
        "seed": 0 <= record["seed"] < 2**IMAGE_SEED_BITS,
        "format": record["format"] >= 1,
        "computed_with": _is_setting(record["computed_with"]),
    }
    for key in (key for key, is_valid in valid.items() if not is_valid):
        raise UsageError(f"{problem}: {key!r} is {short_repr(record[key])}; use an intact copy")


def _is_setting(values: Mapping[str, Any]) -> bool:
    """Whether these are short texts and numbers, as ``compute_environment`` returns."""
    plain = all(value is None or isinstance(value, str | int) for value in values.values())
    return plain and len(str(values)) <= _MAX_SETTING and isinstance(values.get("threads", 1), int)


def _json(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(record)
    return text


def _quoted(value: Any) -> str:
    """A value on the line of settings; in JSON quotes if it contains a separator."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\n\r]', text) else text
