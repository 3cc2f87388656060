"""Parts of a model that have a file of their own, written once: see ``models.part``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.models.base import GenerativeModel
from undiffuse.models.components import MAIN, components_of, part_component
from undiffuse.models.parts import stored_parts
from undiffuse.models.weights import read_header, read_weights, save_weights


def save_parts(folder: Path, model: GenerativeModel) -> dict[str, dict[str, Any]]:
    """Write the parts of a model that have a file of their own, once; returns their entries in ``components``."""
    written = {}
    for name, part, module in stored_parts(model):
        sha256 = save_weights(folder / f"{name}.safetensors", module.state_dict())
        written[name] = part_component(f"{name}.safetensors", sha256, part.source)
    return written


def load_parts(model: GenerativeModel, record: Mapping[str, Any], folder: Path) -> None:
    """Put the weights of parts that have a file of their own into a model.

    Raises:
        UsageError: one is not there, or not the one that ``config.json`` names.
    """
    told = components_of(record)
    for name, _, module in stored_parts(model):
        if name not in told:
            raise UsageError(f"{folder / 'config.json'} names no weights of the part {name!r}; it is damaged")
        file = folder / told[name].weights
        if not file.is_file():
            raise UsageError(f"{folder} has no {file.name}, which its config.json names; put it back")
        tensors = read_weights(file)
        if (sha256 := sha256_of(file)) != told[name].sha256:
            stated = str(told[name].sha256)[:12]
            raise UsageError(f"{file} has SHA-256 {sha256[:12]}..., its config.json names {stated}...; put it back")
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
            raise UsageError(f"{file} is damaged or does not fit its config.json ({first})") from None


def shapes_of_parts(record: Mapping[str, Any], folder: Path) -> list[tuple[int, ...]]:
    files = [folder / facts.weights for name, facts in components_of(record).items() if name != MAIN]
    return [shape for file in files if file.is_file() for shape in read_header(file).shapes.values()]
