"""Weights files with a checksum: written atomically, validated on reading, and without pickle.

Large weights may be quantised (``int8``); they are dequantised on reading.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from undiffuse.checksums import checksum_of, parse_json
from undiffuse.errors import UsageError
from undiffuse.files import replacing, sha256_of
from undiffuse.models.files import int8
from undiffuse.models.files import record as records

#: Weights files of a model folder: averaged weights, and weights without averaging.
WEIGHTS = {"ema": "model.safetensors", "raw": "raw.safetensors"}
#: Keys of a weights file's metadata: the checksum of its tensors, or JSON with the checksum and the configuration that
#: they were saved with. A file only has one of them, since safetensors does not preserve the order of keys.
_CHECKSUM, _METADATA = "sha256_of_tensors", "undiffuse"
#: Key in that JSON: the format of large weights; missing if no weights are quantised.
_FORMAT = "format"


def save_weights(
    path: Path, tensors: Mapping[str, Tensor | int8.Int8Tensor], record: Mapping[str, Any] | None = None
) -> str:
    """Write weights atomically, with a checksum; returns the SHA-256 of the file.

    Args:
        path: path of the ``.safetensors`` file.
        tensors: tensors or quantised tensors by name, on any device; tied weights are written separately.
        record: content of the matching ``config.json``; the keys that affect the result are saved as well.
    """
    flat = int8.flattened(tensors)
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in _untied(flat).items()}
    stored: dict[str, Any] = {_CHECKSUM: _sha256_of_tensors(on_cpu)}
    if any(isinstance(value, int8.Int8Tensor) for value in tensors.values()):
        stored[_FORMAT] = int8.FORMAT
    if record is not None:
        config = records.result_record(record)
        stored |= {"config_sha256": checksum_of(config), "config": config}
    metadata = stored if stored.keys() == {_CHECKSUM} else {_METADATA: json.dumps(stored)}
    with replacing(path) as temporary:
        save_file(on_cpu, temporary, metadata=metadata)
    return sha256_of(path)


def _untied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with tied weights cloned, since files cannot contain shared tensors."""
    seen, untied = set[int](), dict[str, Tensor]()
    for name, value in tensors.items():
        pointer = value.untyped_storage().data_ptr()
        untied[name] = value.clone() if pointer and pointer in seen else value
        seen.add(pointer)
    return untied


class Header(NamedTuple):
    """Metadata of a weights file.

    Attributes:
        shapes: shapes of its weights by name.
        checksum: checksum of its tensors; None in a file from another program.
        config: the ``config.json`` that they were saved with; None if it was not saved.
        format: format of large weights, ``int8_per_channel``; None if no weights are quantised.
    """

    shapes: dict[str, tuple[int, ...]]
    checksum: str | None
    config: dict[str, Any] | None
    format: str | None = None


def read_header(path: Path) -> Header:
    """Read the header of a weights file.

    Raises:
        UsageError: if it is damaged, or in a format of a newer version.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        stored = parse_json(metadata[_METADATA]) if _METADATA in metadata else {_CHECKSUM: metadata.get(_CHECKSUM)}
        config = stored.get("config")
        if config is not None and checksum_of(config) != stored["config_sha256"]:
            raise ValueError("its copy of the configuration does not match its checksum")
        kind = stored.get(_FORMAT)
        shapes = int8.shapes_of(shapes) if kind == int8.FORMAT else shapes
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged ({str(error).strip().splitlines()[0]}); restore an intact copy") from None
    if kind not in (None, int8.FORMAT):
        raise UsageError(f"{path} has weights in the unknown format {str(kind)[:40]!r}; upgrade undiffuse")
    return Header(shapes, stored.get(_CHECKSUM), config, kind)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read weights and verify their checksum, if the file has one (files from other programs may have none).

    Returns:
        Tensors by name, with the dtypes of the file; quantised weights in float32.
    Raises:
        UsageError: if the file is damaged.
    """
    header = read_header(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged ({str(error).strip().splitlines()[0]})") from None
    if header.checksum is not None and header.checksum != _sha256_of_tensors(tensors):
        raise UsageError(f"{path} is damaged: its weights do not match their checksum; restore an intact copy")
    try:
        return int8.restored(tensors) if header.format == int8.FORMAT else tensors
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}); restore an intact copy") from None


def _sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of each tensor, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
