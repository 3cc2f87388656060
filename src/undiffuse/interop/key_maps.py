"""Key maps: which weights of another library's network are which of ours.

A key map is a mapping from our module names to theirs, without the last part of a key (``weight``, ``bias``). Parts in
braces stand for numbers and are copied: ``down.{level}.stages.{index}`` -> ``down_blocks.{level}.resnets.{index}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from undiffuse.errors import UsageError


class Stacked(NamedTuple):
    """Several of their layers that are one of ours: outputs are concatenated in this order."""

    names: tuple[str, ...]


class Swapped(NamedTuple):
    """A layer of theirs whose outputs are two halves in the other order, such as scale and shift."""

    name: str


#: Our layers within a module -> theirs.
Parts = Mapping[str, str | Stacked | Swapped]


class Group(NamedTuple):
    """A module of theirs and the map of its parts."""

    name: str
    parts: Parts


#: Our module -> the same module of theirs; None for a weight that they do not have, which is left as it is.
KeyMap = Mapping[str, str | Stacked | Swapped | Group | None]


def converted(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    """Our state dict with the values of theirs; every tensor on both sides is used exactly once.

    Args:
        theirs: their weights by key.
        ours: our state dict; it gives the keys and the shapes.
        key_map: the names.
    Raises:
        UsageError: a key of ours without a rule, a key of theirs that is missing, not used or used twice, or a shape
            that does not fit.
    """
    left, found = dict(theirs), dict[str, Tensor]()
    for key, value in ours.items():
        rule = _rule_of(key, key_map)
        names = rule.keys
        if missing := [name for name in names if name not in left]:
            raise UsageError(f"the weights have no {missing[0]}, which is {key} here; they are of another network")
        values = [half for name in names for half in _in_order(left.pop(name), rule.swapped)]
        found[key] = _as_shape(key, values, value) if names else value
    if left:
        raise UsageError(f"{len(left)} weights have no place here, such as {min(left)}; they are of another network")
    return found


def their_keys(key: str, key_map: KeyMap) -> tuple[str, ...]:
    """Their keys of one of ours; several if theirs are stacked, none if they do not have it.

    Args:
        key: a key of our state dict.
        key_map: the names.
    Raises:
        UsageError: if there is no rule for the key.
    Example:
        >>> their_keys("blocks.3.qkv.bias", {"blocks.{i}.qkv": Stacked(("layers.{i}.q", "layers.{i}.k"))})
        ('layers.3.q.bias', 'layers.3.k.bias')
    """
    return _rule_of(key, key_map).keys


class _Rule(NamedTuple):
    """Their keys of one of ours, and whether the halves of each are swapped."""

    keys: tuple[str, ...]
    swapped: bool = False


def _rule_of(key: str, key_map: KeyMap) -> _Rule:
    module, _, kind = key.rpartition(".")
    for template, theirs in _layers(key_map):
        if theirs is None:
            if _matched(template, key) is not None:
                return _Rule(())
        elif (numbers := _matched(template, module)) is not None:
            keys = tuple(f"{name.format(**numbers)}.{kind}" for name in _names(theirs))
            return _Rule(keys, isinstance(theirs, Swapped))
    raise UsageError(f"the key map has no rule for {key}")


def _layers(key_map: KeyMap) -> Iterator[tuple[str, str | Stacked | Swapped | None]]:
    """(our template, theirs) of all layers, with groups resolved."""
    for ours, theirs in key_map.items():
        if isinstance(theirs, Group):
            for part, name in theirs.parts.items():
                yield f"{ours}.{part}", _inside(theirs.name, name)
        else:
            yield ours, theirs


def _inside(module: str, name: str | Stacked | Swapped) -> str | Stacked | Swapped:
    names = tuple(f"{module}.{part}" for part in _names(name))
    return Stacked(names) if isinstance(name, Stacked) else Swapped(names[0]) if isinstance(name, Swapped) else names[0]


def _names(theirs: str | Stacked | Swapped) -> tuple[str, ...]:
    if isinstance(theirs, Stacked):
        return theirs.names
    return (theirs.name,) if isinstance(theirs, Swapped) else (theirs,)


def _matched(template: str, name: str) -> dict[str, str] | None:
    """The numbers of a name by placeholder; None if it does not match the template."""
    pattern, parts = template.split("."), name.split(".")
    if len(pattern) != len(parts):
        return None
    numbers = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{") and part.isdecimal():
            numbers[wanted.strip("{}")] = part
        elif wanted != part:
            return None
    return numbers


def _in_order(value: Tensor, swapped: bool) -> tuple[Tensor, ...]:
    return value.chunk(2)[::-1] if swapped else (value,)


def _as_shape(key: str, values: list[Tensor], like: Tensor) -> Tensor:
    """The concatenated values; a 1 x 1 convolution may be a linear layer here."""
    value = torch.cat(values) if len(values) > 1 else values[0]
    if value.ndim == 4 and value.shape == (*like.shape, 1, 1):
        value = value[..., 0, 0]
    if value.shape != like.shape:
        raise UsageError(f"{key} has the shape {tuple(like.shape)} here and {tuple(value.shape)} there")
    return value
