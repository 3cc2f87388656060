"""Saving and loading of a model's frozen parts, see ``models.part``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.models.base import GenerativeModel
from undiffuse.models.files.components import MAIN, components_of, part_component
from undiffuse.models.files.int8 import as_int8
from undiffuse.models.files.weights import WEIGHTS, read_header, read_weights, save_weights
from undiffuse.models.parts import freeze_parts, stored_parts


def save_parts(
    folder: Path, model: GenerativeModel, dtype: torch.dtype | None = None, int8: bool = False
) -> dict[str, dict[str, Any]]:
    """Write the stored parts of a model; returns the entries of all parts in ``components``.

    Args:
        folder: folder of the model.
        model: model whose parts are written.
        dtype: dtype of floating-point tensors in the file; unchanged by default.
        int8: quantise large weights to int8, and save other parameters in bfloat16.
    """
    entries = {}
    for name, part in model.parts.items():
        entries[name] = part_component(None, part.sha256, part.source)
    for name, part, module in stored_parts(model):
        numbers = {key: _as_type(value, dtype) for key, value in module.state_dict().items()}
        tensors = as_int8(module, module.state_dict()) if int8 else numbers
        sha256 = save_weights(folder / f"{name}.safetensors", tensors)
        entries[name] = part_component(f"{name}.safetensors", sha256, part.source)
    return entries


def _as_type(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


def load_parts(model: GenerativeModel, record: Mapping[str, Any], folder: Path) -> None:
    """Load the weights of a model's stored parts.

    Args:
        model: the model, with newly built parts.
        record: content of its ``config.json``.
        folder: folder of the model.
    Raises:
        UsageError: if a file is missing, its checksum differs, or ``config.json`` has an unknown component.
        UsageError: if a part that is stored elsewhere is missing or another one.
    """
    freeze_parts(model)
    components = components_of(record)
    if unknown := sorted(components.keys() - {MAIN} - model.parts.keys()):
        raise UsageError(f"{folder / 'config.json'} names the component {unknown[0]!r}, which this model does not have")
    for name, _, module in stored_parts(model):
        entry = components.get(name)
        if entry is None or entry.weights is None or entry.sha256 is None:
            raise UsageError(f"{folder / 'config.json'} lacks the weights of the part {name!r}; it is damaged")
        _fill(module, folder / entry.weights, entry.sha256)
    model.locate_parts(folder)


def copy_parts(folder: Path, model: GenerativeModel) -> list[str]:
    """Copy the files of parts from elsewhere into folders named after the parts; returns their names.

    Args:
        folder: folder of the model that is written.
        model: the model whose parts are copied.
    """
    found = model.conditioner.part_files()
    for name, files in found.items():
        (folder / name).mkdir()
        for file in files:
            shutil.copyfile(file, folder / name / file.name)
    return list(found)


def _fill(module: nn.Module, file: Path, stated: str) -> None:
    tensors = read_weights(file)
    if (sha256 := sha256_of(file)) != stated:
        raise UsageError(f"{file} has SHA-256 {sha256[:12]}..., its config.json states {stated[:12]}...; restore it")
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"{file} is damaged or does not fit its config.json ({first})") from None


def shapes_of_parts(record: Mapping[str, Any], folder: Path) -> list[tuple[int, ...]]:
    """Shapes of the tensors in the files of parts, each file once, without the model's main weights file.

    Args:
        record: content of ``config.json``.
        folder: folder of the model.
    Raises:
        UsageError: if a file is missing.
    """
    entries = (entry for name, entry in components_of(record).items() if name != MAIN)
    named = {entry.weights for entry in entries if entry.weights} - set(WEIGHTS.values())
    files = [folder / name for name in sorted(named)]
    for file in files:
        if not file.is_file():
            raise UsageError(f"{folder} has no {file.name}, which its config.json names; restore it")
    return [shape for file in files for shape in read_header(file).shapes.values()]
