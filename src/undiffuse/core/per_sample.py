"""Dataclasses of per-sample tensors with common operations: select samples, move to a device, join batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor

from undiffuse.errors import UsageError

T = TypeVar("T")


class PerRow(tuple[T, ...], Generic[T]):
    """One plain Python object per sample, such as its seed."""

    __slots__ = ()

    def select(self, rows: Tensor | slice) -> PerRow[T]:
        """The entries with these indices (or this mask, or this slice)."""
        indices = torch.arange(len(self))[index_on(rows, torch.device("cpu"))]
        return PerRow(self[index] for index in indices.tolist())


@dataclass(frozen=True)
class PerSample:
    """Base class of dataclasses whose fields are tensors, nested ``PerSample``, or tuples or mappings of these.

    The first axis of every tensor is the batch; ``PerRow`` holds objects that are not tensors. A field is absent if it
    is None, an empty mapping or an empty tuple.
    """

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; nested tensors are named ``field.name``."""
        return {name: value for name, value in self._leaves() if isinstance(value, Tensor)}

    def _leaves(self) -> Iterator[tuple[str, Any]]:
        for field in fields(self):
            yield from _leaves_of(field.name, getattr(self, field.name))

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A copy with ``function`` applied to every tensor."""
        return self.map_named(lambda name, value: function(value))

    def map_named(self, function: Callable[[str, Tensor], Tensor]) -> Self:
        """Like ``map``, with a function of (name, tensor); names as in ``tensors``."""
        return self._map_leaves(lambda name, value: function(name, value) if isinstance(value, Tensor) else value)

    def _map_leaves(self, function: Callable[[str, Any], Any]) -> Self:
        """A copy with ``function`` applied to every tensor and every ``PerRow``."""
        return replace(
            self, **{field.name: _map_value(field.name, getattr(self, field.name), function) for field in fields(self)}
        )

    def select(self, rows: Tensor | slice) -> Self:
        """The samples with these indices (or this mask, or this slice)."""
        return self._map_leaves(
            lambda name, value: value.select(rows) if isinstance(value, PerRow) else value[index_on(rows, value.device)]
        )

    def to(self, device: torch.device | str) -> Self:
        """A copy on another device; nested ``PerSample`` values use their own ``to``."""
        return replace(self, **{field.name: _moved(getattr(self, field.name), device) for field in fields(self)})

    @property
    def empty(self) -> bool:
        """Whether no field is set."""
        return next(self._leaves(), None) is None

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the samples of several parts.

        Raises:
            UsageError: a tensor that is missing in some of the parts.
        """
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls()
        names = [field.name for field in fields(parts[0])]
        return replace(parts[0], **{name: _joined(name, [getattr(part, name) for part in parts]) for name in names})


def index_on(rows: Tensor | slice, device: torch.device) -> Tensor | slice:
    """Move indices or a mask to the device of the indexed tensor.

    Args:
        rows: (N,) indices, (B,) mask or slice.
        device: device of the indexed tensor.
    """
    return rows.to(device) if isinstance(rows, Tensor) else rows


def _leaves_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    match value:
        case PerSample():
            yield from ((f"{name}.{inner}", leaf) for inner, leaf in value._leaves())
        case PerRow() | Tensor():
            yield name, value
        case Mapping():
            for key, part in sorted(value.items()):
                yield from _leaves_of(f"{name}.{key}", part)
        case tuple():
            for number, part in enumerate(value):
                yield from _leaves_of(f"{name}.{number}", part)


def _map_value(name: str, value: Any, function: Callable[[str, Any], Any]) -> Any:
    match value:
        case PerSample():
            return value._map_leaves(lambda inner, leaf: function(f"{name}.{inner}", leaf))
        case PerRow() | Tensor():
            return function(name, value)
        case Mapping():
            return {key: _map_value(f"{name}.{key}", part, function) for key, part in value.items()}
        case tuple():
            return tuple(_map_value(f"{name}.{number}", part, function) for number, part in enumerate(value))
    return value


def _moved(value: Any, device: torch.device | str) -> Any:
    match value:
        case PerSample() | Tensor():
            return value.to(device)
        case PerRow():
            return value
        case Mapping():
            return {key: _moved(part, device) for key, part in value.items()}
        case tuple():
            return tuple(_moved(part, device) for part in value)
    return value


def _joined(name: str, values: Sequence[Any]) -> Any:
    """Concatenate the values of one field, or of one nested value."""
    first = values[0]
    match first:
        case None:
            _all_or_none(name, [value is not None for value in values])
            return None
        case PerSample():
            return type(first).join(list(values))
        case PerRow():
            return PerRow(entry for value in values for entry in value)
        case Mapping():
            keys = sorted({key for value in values for key in value})
            for key in keys:
                _all_or_none(f"{name}.{key}", [key in value for value in values])
            return {key: _joined(f"{name}.{key}", [value[key] for value in values]) for key in keys}
        case tuple():
            _all_or_none(name, [len(value) == len(first) for value in values])
            return tuple(_joined(f"{name}.{number}", part) for number, part in enumerate(zip(*values, strict=True)))
    _all_or_none(name, [value is not None for value in values])
    return torch.cat(list(values))


def _all_or_none(name: str, present: Sequence[bool]) -> None:
    if any(present) and not all(present):
        raise UsageError(f"cannot join: only some of the rows have {name!r}")
