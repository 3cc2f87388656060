"""Parts of a model that have a file of their own, written once: see ``models.part``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.models.base import GenerativeModel
from undiffuse.models.files.components import MAIN, components_of, part_component
from undiffuse.models.files.weights import WEIGHTS, read_header, read_weights, save_weights
from undiffuse.models.parts import freeze_parts, stored_parts


def save_parts(folder: Path, model: GenerativeModel, dtype: torch.dtype | None = None) -> dict[str, dict[str, Any]]:
    """Write the parts of a model that have a file of their own, once; returns the entries of all in ``components``.

    Args:
        dtype: of their numbers in the file; as they are by default.
    """
    entries = {}
    for name, part in model.parts.items():
        entries[name] = part_component(None, part.sha256, part.source)
    for name, part, module in stored_parts(model):
        tensors = {key: _as_type(value, dtype) for key, value in module.state_dict().items()}
        sha256 = save_weights(folder / f"{name}.safetensors", tensors)
        entries[name] = part_component(f"{name}.safetensors", sha256, part.source)
    return entries


def _as_type(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


def load_parts(model: GenerativeModel, record: Mapping[str, Any], folder: Path) -> None:
    """Put the weights of parts that have a file of their own into a model.

    Raises:
        UsageError: one is not there, or not the one that ``config.json`` names; or it names what is no part.
    """
    freeze_parts(model)
    told = components_of(record)
    if others := sorted(told.keys() - {MAIN} - model.parts.keys()):
        raise UsageError(f"{folder / 'config.json'} names the component {others[0]!r}, which this model does not have")
    for name, _, module in stored_parts(model):
        if name not in told or told[name].weights is None or told[name].sha256 is None:
            raise UsageError(f"{folder / 'config.json'} names no weights of the part {name!r}; it is damaged")
        _fill(module, folder / str(told[name].weights), str(told[name].sha256))


def _fill(module: nn.Module, file: Path, stated: str) -> None:
    tensors = read_weights(file)
    if (sha256 := sha256_of(file)) != stated:
        raise UsageError(f"{file} has SHA-256 {sha256[:12]}..., its config.json names {stated[:12]}...; put it back")
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"{file} is damaged or does not fit its config.json ({first})") from None


def shapes_of_parts(record: Mapping[str, Any], folder: Path) -> list[tuple[int, ...]]:
    """Of the tensors in the files of parts, each file once; the model's own is none of them."""
    told = components_of(record)
    named = {entry.weights for name, entry in told.items() if name != MAIN and entry.weights} - set(WEIGHTS.values())
    files = [folder / name for name in sorted(named)]
    for file in files:
        if not file.is_file():
            raise UsageError(f"{folder} has no {file.name}, which its config.json names; put it back")
    return [shape for file in files for shape in read_header(file).shapes.values()]
