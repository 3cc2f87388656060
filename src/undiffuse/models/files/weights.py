"""Files of weights, with a checksum inside: written in one piece, read without trust and never unpickled.

Large weights may be kept as integers (``int8``); whoever reads a file gets numbers of their shape all the same.
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

from undiffuse.errors import UsageError
from undiffuse.files import replacing, sha256_of
from undiffuse.models.files import int8
from undiffuse.models.files import record as records
from undiffuse.sealed import checksum_of, parse_json

#: Files of a model folder with weights: averaged ones, and those that training itself moves.
WEIGHTS = {"ema": "model.safetensors", "raw": "raw.safetensors"}
#: Keys of a weights file's metadata, of which it has one, for safetensors keeps no order among several: the checksum
#: of its tensors, or JSON with that and the configuration that they were saved with.
_CHECKSUM, _METADATA = "sha256_of_tensors", "undiffuse"
#: Key in that JSON: how large weights are kept; not there where every tensor is kept as numbers.
_FORMAT = "format"


def save_weights(
    path: Path, tensors: Mapping[str, Tensor | int8.Int8Tensor], record: Mapping[str, Any] | None = None
) -> str:
    """Write weights in one piece, with a checksum inside; returns the file's SHA-256.

    Args:
        path: of the file, ``.safetensors``.
        tensors: by name, on any device; tied ones are written one by one. Numbers, or integers with their scales.
        record: the ``config.json`` that goes with them; of what decides on the result a copy is kept.
    """
    flat = int8.flattened(tensors)
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in _apart(flat).items()}
    stored: dict[str, Any] = {_CHECKSUM: _sha256_of_tensors(on_cpu)}
    if any(isinstance(value, int8.Int8Tensor) for value in tensors.values()):
        stored[_FORMAT] = int8.FORMAT
    if record is not None:
        kept = records.result_record(record)
        stored |= {"config_sha256": checksum_of(kept), "config": kept}
    metadata = stored if stored.keys() == {_CHECKSUM} else {_METADATA: json.dumps(stored)}
    with replacing(path) as temporary:
        save_file(on_cpu, temporary, metadata=metadata)
    return sha256_of(path)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied weights, each with numbers of its own: a file keeps no ties."""
    seen, apart = set[int](), dict[str, Tensor]()
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        apart[name] = value.clone() if place and place in seen else value
        seen.add(place)
    return apart


class Header(NamedTuple):
    """What a weights file says of itself before any weight is read.

    Attributes:
        shapes: of its weights, by name.
        checksum: of its tensors; none in a hand-made file.
        config: the ``config.json`` that they were saved with; none where nobody noted it.
        format: how large weights are kept, ``int8_per_channel``; none where every tensor is kept as numbers.
    """

    shapes: dict[str, tuple[int, ...]]
    checksum: str | None
    config: dict[str, Any] | None
    format: str | None = None


def read_header(path: Path) -> Header:
    """The header of a weights file.

    Raises:
        UsageError: damaged, or of a later version's format.
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
        raise UsageError(f"{path} is damaged ({str(error).strip().splitlines()[0]}); put a sound copy back") from None
    if kind not in (None, int8.FORMAT):
        raise UsageError(f"{path} keeps its weights in the format {str(kind)[:40]!r}, unknown here; upgrade undiffuse")
    return Header(shapes, stored.get(_CHECKSUM), config, kind)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights from a file, compared with their checksum where the file has one (a hand-made one may have none).

    Returns:
        Numbers by name, in the file's own types; float32 where it keeps integers.
    Raises:
        UsageError: damaged.
    """
    header = read_header(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged ({str(error).strip().splitlines()[0]})") from None
    if header.checksum is not None and header.checksum != _sha256_of_tensors(tensors):
        raise UsageError(f"{path} is damaged: its weights do not match their checksum; put a sound copy back")
    try:
        return int8.restored(tensors) if header.format == int8.FORMAT else tensors
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}); put a sound copy back") from None


def _sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of each tensor, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
