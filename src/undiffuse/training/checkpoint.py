"""Checkpoints: everything that a run needs to resume with identical results, each in a separate folder.

``checkpoints/images_000012800/`` contains ``state.safetensors`` (weights, EMA, optimizer) and ``state.json`` (counters,
checksums). A folder is written under a temporary name, synced and renamed, so that it is complete under its final name;
later corruption is detected by checksums, and the newest valid checkpoint is used instead.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from undiffuse.checksums import checksum_of, is_modified, read_json, with_checksum
from undiffuse.errors import UsageError
from undiffuse.files import replacing, sha256_of, write_json
from undiffuse.models.files.components import checkpoint_of_format_1
from undiffuse.models.files.record import FORMAT_VERSION, NewerFormatError, check_format, result_record


class Checkpoint(NamedTuple):
    """Tensors by name, plain counters, and a copy of parts of ``config.json`` (earlier versions saved none)."""

    tensors: dict[str, Tensor]
    counters: dict[str, Any]
    config: dict[str, Any] | None = None


def save_checkpoint(
    folder: Path, tensors: Mapping[str, Tensor], counters: Mapping[str, Any], keep: int, config: Mapping[str, Any]
) -> Path:
    """Write one checkpoint named after ``counters['images']`` and delete all but the newest ``keep``.

    Args:
        folder: folder of the checkpoints.
        tensors: tensors to save, by name.
        counters: plain values to save.
        keep: number of checkpoints to keep.
        config: the run's ``config.json``; the keys that affect the result are saved.
    """
    path, saved_config = folder / _name(counters["images"]), result_record(config)
    with replacing(path) as temporary:
        temporary.mkdir()
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            temporary / "state.safetensors",
        )
        payload = {
            "format_version": FORMAT_VERSION,
            "counters": dict(counters),
            "sha256": {"state.safetensors": sha256_of(temporary / "state.safetensors")},
            "config_sha256": checksum_of(saved_config),
            "config": saved_config,
        }
        write_json(temporary / "state.json", with_checksum(payload))
    for old in _paths(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint, and one line about each newer one that is damaged."""
    damaged: list[str] = []
    for path in _paths(folder):
        try:
            return load_checkpoint(path), damaged
        except NewerFormatError:
            raise
        except UsageError as error:
            damaged.append(str(error))
    return None, damaged


def set_aside_damaged(folder: Path, valid_images: int) -> None:
    """Rename checkpoints newer than the valid one; otherwise they would displace valid ones from those to keep."""
    for path in _paths(folder):
        if path.name > _name(valid_images):
            target = path.with_name(f"damaged_{path.name}")
            shutil.rmtree(target, ignore_errors=True)
            path.rename(target)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        UsageError: if it is truncated, modified, or written by a newer version.
    """
    try:
        payload = read_json(path / "state.json")
        if "checksum" not in payload or is_modified(payload):
            raise ValueError("state.json does not match its checksum")
        check_format(payload["format_version"], f"checkpoint {path.name}")
        if sha256_of(path / "state.safetensors") != payload["sha256"]["state.safetensors"]:
            raise ValueError("state.safetensors does not match its checksum")
        counters, config = payload["counters"], payload.get("config")
        if not isinstance(counters["images"], int) or not isinstance(config, dict | type(None)):
            raise ValueError("state.json has no counters and configuration")
        tensors = load_file(path / "state.safetensors")
        if payload["format_version"] == 1:
            tensors = checkpoint_of_format_1(tensors)
        return Checkpoint(tensors, counters, config)
    except NewerFormatError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UsageError(f"checkpoint {path.name} is damaged ({error})") from None


def joined(**parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merge the tensors of several parts into one dictionary with the keys ``part.name``."""
    return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}


def parts_of(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Inverse of ``joined``: the tensors of each part by name."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}, "posthoc": {}, "training": {}}
    for name, value in tensors.items():
        part, rest = name.split(".", 1)
        parts[part][rest] = value
    return parts


def largest_shapes(folder: Path) -> list[tuple[int, ...]]:
    """Shapes of all tensors in the largest checkpoint whose header can be read, without loading it; empty if none."""
    found: list[list[tuple[int, ...]]] = [[]]
    for path in _paths(folder):
        with contextlib.suppress(OSError, SafetensorError), safe_open(path / "state.safetensors", "pt") as file:
            found.append([tuple(file.get_slice(name).get_shape()) for name in file.keys()])  # noqa: SIM118
    return max(found, key=lambda shapes: sum(map(prod, shapes)))


def _name(images: int) -> str:
    return f"images_{images:012d}"


def _paths(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(folder.glob("images_*"), reverse=True) if folder.is_dir() else []
