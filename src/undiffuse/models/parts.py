"""Frozen parts of a model: they stay as they are, averages share them, and each has a file of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TypeVar

from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.models.base import GenerativeModel
from undiffuse.models.part import Part

M = TypeVar("M", bound=GenerativeModel)

#: Names that stand for something else in a model's folder.
_TAKEN = ("model", "raw")


def freeze_parts(model: GenerativeModel) -> None:
    """Let the parts need no gradient.

    Raises:
        UsageError: a part whose name is taken, or that the model does not have.
    """
    for name in model.parts:
        if not name.isidentifier() or name in _TAKEN or not hasattr(model, name):
            raise UsageError(
                f"a part is named as its attribute is, and not {' or '.join(_TAKEN)}; got {name!r} of a "
                f"{type(model).__name__}"
            )
    for _, _, module in present_parts(model):
        module.requires_grad_(False)


def present_parts(model: GenerativeModel) -> Iterator[tuple[str, Part, nn.Module]]:
    """The parts that are there: one that is fetched may not be."""
    for name, part in model.parts.items():
        module = getattr(model, name)
        if module is not None:
            yield name, part, module


def stored_parts(model: GenerativeModel) -> Iterator[tuple[str, Part, nn.Module]]:
    """The parts with a file of their own."""
    return ((name, part, module) for name, part, module in present_parts(model) if part.stored)


def own_state(model: GenerativeModel) -> dict[str, Tensor]:
    """The weights of a model's own file, by name: all but those of its parts."""
    parts = tuple(f"{name}." for name in model.parts)
    return {name: value for name, value in model.state_dict().items() if not name.startswith(parts)}


def load_own(model: GenerativeModel, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``own_state`` gave.

    Args:
        model: whose weights are filled; its parts stay as they are.
        tensors: by name, of any shape that the model has for it.
    Raises:
        RuntimeError: other tensors than the model has.
    """
    if difference := mismatch(own_state(model), tensors):
        raise RuntimeError(difference)
    model.load_state_dict(tensors, strict=False)


def mismatch(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """In what the names of tensors differ, in words; "" where they are the same.

    Args:
        own: that are needed, by name.
        given: that there are, by name.
    Example:
        >>> import torch
        >>> mismatch({"weight": torch.zeros(1)}, {"bias": torch.zeros(1)})
        '1 lacking, such as weight; 1 unknown, such as bias'
    """
    lacks, others = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    kinds = [(lacks, "lacking"), (others, "unknown")]
    return "; ".join(f"{len(names)} {what}, such as {names[0]}" for names, what in kinds if names)


def averaged_copy(model: M) -> M:
    """A frozen copy in evaluation mode, which shares the parts."""
    shared = {id(module): module for _, _, module in present_parts(model)}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()
