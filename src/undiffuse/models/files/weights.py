"""Files of weights, with a checksum inside: written in one piece, read without trust and never unpickled."""

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
from undiffuse.models.files import record as records
from undiffuse.sealed import checksum_of, parsed

#: Files of a model folder with weights: averaged ones, and those that training itself moves.
WEIGHTS = {"ema": "model.safetensors", "raw": "raw.safetensors"}
#: Keys of a weights file's metadata, of which it has one, for safetensors keeps no order among several: the checksum
#: of its tensors, or JSON with that and the configuration that they were saved with.
_CHECKSUM, _METADATA = "sha256_of_tensors", "undiffuse"


def save_weights(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any] | None = None) -> str:
    """Write weights in one piece, with a checksum inside; returns the file's SHA-256.

    Args:
        path: of the file, ``.safetensors``.
        tensors: by name, on any device; tied ones are written one by one.
        record: the ``config.json`` that goes with them; of what decides on the result a copy is kept.
    """
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in _apart(tensors).items()}
    checksum = _sha256_of_tensors(on_cpu)
    metadata = {_CHECKSUM: checksum}
    if record is not None:
        kept = records.result_record(record)
        stored = {_CHECKSUM: checksum, "config_sha256": checksum_of(kept), "config": kept}
        metadata = {_METADATA: json.dumps(stored)}
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
        shapes: of its tensors, by name.
        checksum: of its tensors; none in a hand-made file.
        config: the ``config.json`` that they were saved with; none where nobody noted it.
    """

    shapes: dict[str, tuple[int, ...]]
    checksum: str | None
    config: dict[str, Any] | None


def read_header(path: Path) -> Header:
    """The header of a weights file.

    Raises:
        UsageError: damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        stored = parsed(metadata[_METADATA]) if _METADATA in metadata else {_CHECKSUM: metadata.get(_CHECKSUM)}
        config = stored.get("config")
        if config is not None and checksum_of(config) != stored["config_sha256"]:
            raise ValueError("its copy of the configuration does not match its checksum")
        return Header(shapes, stored.get(_CHECKSUM), config)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged ({str(error).strip().splitlines()[0]}); put a sound copy back") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights from a file, compared with their checksum where the file has one (a hand-made one may have none).

    Raises:
        UsageError: damaged.
    """
    stated = read_header(path).checksum
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged ({str(error).strip().splitlines()[0]})") from None
    if stated is not None and stated != _sha256_of_tensors(tensors):
        raise UsageError(f"{path} is damaged: its weights do not match their checksum; put a sound copy back")
    return tensors


def _sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of each tensor, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
