"""Parts of a model that are not simply trained with the rest: frozen ones, and ones that came from elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TypeVar

from torch import Tensor, nn

from undiffuse.models.base import GenerativeModel
from undiffuse.models.part import Part

M = TypeVar("M", bound=GenerativeModel)


def own_state(model: GenerativeModel) -> dict[str, Tensor]:
    """The weights of a model's own file, by name: all but those of frozen parts."""
    frozen = tuple(f"{name}." for name, part in model.parts.items() if not part.trained)
    return {name: value for name, value in model.state_dict().items() if not name.startswith(frozen)}


def load_own(model: GenerativeModel, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``own_state`` gave.

    Raises:
        RuntimeError: other tensors than the model has.
    """
    if wrong := sorted(own_state(model).keys() ^ tensors.keys()):
        raise RuntimeError(f"{wrong[0]} is on one side alone")
    model.load_state_dict(tensors, strict=False)


def stored_parts(model: GenerativeModel) -> Iterator[tuple[str, Part, nn.Module]]:
    """The parts with a file of their own."""
    for name, part in model.parts.items():
        module = getattr(model, name)
        if part.stored and not part.trained and module is not None:
            yield name, part, module


def averaged_copy(model: M) -> M:
    """A frozen copy in evaluation mode, which shares the parts that no average is taken of."""
    shared = [getattr(model, name) for name, part in model.parts.items() if not part.in_ema]
    asked = [parameter for module in shared if module is not None for parameter in module.parameters()]
    wanted = [parameter.requires_grad for parameter in asked]
    made = copy.deepcopy(model, {id(module): module for module in shared}).requires_grad_(False).eval()
    for parameter, wants in zip(asked, wanted, strict=True):
        parameter.requires_grad_(wants)
    return made
