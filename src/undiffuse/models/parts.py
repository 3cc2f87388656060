"""Frozen parts of a model: not trained, shared with averages, and saved in separate files."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from undiffuse.conditioning.text import FrozenTextConfig, TextConfig
from undiffuse.errors import UsageError
from undiffuse.models.base import GenerativeModel
from undiffuse.models.part import Part

M = TypeVar("M", bound=GenerativeModel)

#: Reserved names, which have another meaning in a model's folder.
_RESERVED = ("model", "raw")


def freeze_parts(model: GenerativeModel) -> None:
    """Disable gradients of the parts.

    Raises:
        UsageError: if the name of a part is reserved or not an attribute of the model.
    """
    for name in model.parts:
        if not name.isidentifier() or name in _RESERVED or not hasattr(model, name):
            raise UsageError(
                f"the name of a part must be an attribute of the model and not {' or '.join(_RESERVED)}; got {name!r} "
                f"of a {type(model).__name__}"
            )
    for _, _, module in present_parts(model):
        module.requires_grad_(False)


def set_text_part(model: GenerativeModel, text: TextConfig | None) -> None:
    """Name a frozen text encoder as a part of a model; it is no module of the model, which stores its hash only.

    Args:
        model: the model.
        text: configuration of its text encoder, if it has one.
    """
    if isinstance(text, FrozenTextConfig):
        model.parts = {text.part: Part(Path(text.folder).name, text.sha256, stored=False)}
        setattr(model, text.part, None)


def present_parts(model: GenerativeModel) -> Iterator[tuple[str, Part, nn.Module]]:
    """The parts that are not None; parts to download may be missing."""
    for name, part in model.parts.items():
        module = getattr(model, name)
        if module is not None:
            yield name, part, module


def stored_parts(model: GenerativeModel) -> Iterator[tuple[str, Part, nn.Module]]:
    """The parts that are saved in separate files."""
    return ((name, part, module) for name, part, module in present_parts(model) if part.stored)


def model_state(model: GenerativeModel) -> dict[str, Tensor]:
    """State dict of a model without its parts, as saved in the model's weights file."""
    parts = tuple(f"{name}." for name in model.parts)
    return {name: value for name, value in model.state_dict().items() if not name.startswith(parts)}


def load_model_state(model: GenerativeModel, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors returned by ``model_state``.

    Args:
        model: the model; its parts are not changed.
        tensors: tensors by name, with the shapes of the model's state dict.
    Raises:
        RuntimeError: if names or shapes do not match.
    """
    if difference := mismatch(model_state(model), tensors):
        raise RuntimeError(difference)
    model.load_state_dict(tensors, strict=False)


def mismatch(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Description of how the names of tensors differ; "" if they are the same.

    Args:
        expected: expected tensors by name.
        given: received tensors by name.
    Example:
        >>> import torch
        >>> mismatch({"weight": torch.zeros(1)}, {"bias": torch.zeros(1)})
        '1 lacking, such as weight; 1 unknown, such as bias'
    """
    missing, unexpected = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    kinds = [(missing, "lacking"), (unexpected, "unknown")]
    return "; ".join(f"{len(names)} {what}, such as {names[0]}" for names, what in kinds if names)


def averaged_copy(model: M) -> M:
    """A frozen copy in evaluation mode that shares the model's parts."""
    shared = {id(module): module for _, _, module in present_parts(model)}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()
