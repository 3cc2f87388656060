"""Tensors of the rows of a batch, which travel together: chosen, moved and joined in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from undiffuse.errors import UsageError


@dataclass(frozen=True)
class PerSample:
    """Base of dataclasses whose fields are tensors, mappings of names to tensors, or absent (None, an empty mapping).

    Every tensor has the batch as its first axis.
    """

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there by name, those of a mapping as ``field.name``."""
        return dict(self._named())

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                yield from ((f"{field.name}.{name}", part) for name, part in sorted(value.items()))
            elif value is not None:
                yield field.name, value

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same with ``function`` applied to every tensor."""
        return self.mapped(lambda name, value: function(value))

    def mapped(self, function: Callable[[str, Tensor], Tensor]) -> Self:
        """``map`` of a function that is told the tensor's name as well, as ``tensors`` has it."""
        return self._holding({name: function(name, value) for name, value in self._named()})

    def _holding(self, tensors: Mapping[str, Tensor]) -> Self:
        held: dict[str, Any] = {}
        for name, value in tensors.items():
            field, _, key = name.partition(".")
            if key:
                held.setdefault(field, {})[key] = value
            else:
                held[field] = value
        return replace(self, **held)

    def select(self, rows: Tensor | slice) -> Self:
        """The rows with these indices (or this mask, or this slice)."""
        return self.map(lambda value: value[rows])

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return self.map(lambda value: value.to(device))

    @property
    def empty(self) -> bool:
        """Whether there is no tensor at all."""
        return next(self._named(), None) is None

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Their rows, one part after the other.

        Raises:
            UsageError: a tensor that only some of the parts have.
        """
        given = [part.tensors() for part in parts]
        names = list(dict.fromkeys(name for tensors in given for name in tensors))
        for name in names:
            if any(name not in tensors for tensors in given):
                raise UsageError(f"cannot join: only some of the rows have {name!r}")
        return cls()._holding({name: torch.cat([tensors[name] for tensors in given]) for name in names})
