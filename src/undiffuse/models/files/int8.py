"""Weights as 8-bit integers with a scale per output channel: a quarter of float32's bytes, half of bfloat16's.

A weight w of output channel c is kept as an integer q with w' = s_c q, |q| <= 127 and |w - w'| <= s_c / 2. The scale
s_c is the channel's largest |w| over 127, rounded up to 17 significant bits: so every s_c q is a float32 number, and
weights that came from such a file go into the same bytes again (ADR 0065).

In a file, the weight ``NAME`` is the pair ``NAME.int8``, int8 (C, ...), and ``NAME.scale``, float32 (C,); the metadata
name the format. Large weights alone are kept so, see ``int8_names``; the other parameters are kept in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from undiffuse.errors import UsageError

#: What a file's metadata call this format.
FORMAT = "int8_per_channel"
#: Weights with fewer numbers stay in bfloat16: first and last convolutions are among them.
SMALLEST = 8192
VALUES, SCALE = ".int8", ".scale"
#: The largest integer of a channel.
_LARGEST = 127
#: Significant bits of a scale: 24 of float32 less 7 of an integer.
_SCALE_BITS = 17
#: Beyond it the largest integer times the scale might be no float32 number.
_LIMIT = 2.0**126


class Int8Tensor(NamedTuple):
    """A weight as it is kept.

    Attributes:
        values: int8 (C, ...).
        scale: float32 (C,), of each output channel.
    """

    values: Tensor
    scale: Tensor

    def dequantise(self) -> Tensor:
        """The weight w' = s_c q, float32 (C, ...)."""
        return self.values.float() * self.scale.view(-1, *[1] * (self.values.dim() - 1))


def quantise(weight: Tensor, name: str = "weight") -> Int8Tensor:
    """A weight as integers, |w - w'| <= s_c / 2.

    Args:
        weight: (C, ...), two dimensions or more; the first is that of output channels.
        name: that a message calls it.
    Returns:
        Integers and scales, on the CPU; a channel of zeros has the scale 0.
    Raises:
        UsageError: a value that is not finite, or too large.
    Example:
        >>> kept = quantise(torch.tensor([[1.27, -0.5], [0.0, 0.0]]))
        >>> kept.values.tolist()
        [[127, -50], [0, 0]]
    """
    rows = weight.detach().to("cpu", torch.float64).flatten(1)
    largest = rows.abs().amax(1)
    if not bool((largest <= _LIMIT).all()):
        raise UsageError(f"{name} has values that are not finite, or above 2^126; int8 keeps none, leave --int8 out")
    scale = _scale(largest / _LARGEST)
    values = torch.round(rows / torch.where(scale > 0, scale, 1.0)[:, None])
    return Int8Tensor(values.to(torch.int8).view(weight.shape), scale.float())


def _scale(exact: Tensor) -> Tensor:
    """The next number above with few bits, a normal one in float32; 0 for 0."""
    mantissa, exponent = torch.frexp(exact)
    rounded = torch.ldexp(torch.ceil(mantissa * 2**_SCALE_BITS) / 2**_SCALE_BITS, exponent)
    return torch.where(exact > 0, rounded.clamp(min=torch.finfo(torch.float32).tiny), 0.0)


def int8_names(module: nn.Module) -> set[str]:
    """Names of the parameters that are kept as integers: large ones with channels, and no tables of embeddings."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return {
        name
        for name, value in module.named_parameters()
        if value.dim() >= 2 and value.numel() >= SMALLEST and value.is_floating_point() and id(value) not in tables
    }


def as_int8(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor | Int8Tensor]:
    """The tensors of a model as they are kept: large weights as integers, other parameters in bfloat16.

    Args:
        module: whose parameters they are; what is no parameter of it stays as it is.
        tensors: by name.
    Raises:
        UsageError: a large weight with a value that is not finite.
    """
    large, parameters = int8_names(module), {name for name, _ in module.named_parameters()}
    kept: dict[str, Tensor | Int8Tensor] = {}
    for name, value in tensors.items():
        small = value.to(torch.bfloat16) if name in parameters and value.is_floating_point() else value
        kept[name] = quantise(value, name) if name in large else small
    return kept


def dequantised(tensors: Mapping[str, Tensor | Int8Tensor]) -> dict[str, Tensor]:
    """Every tensor as numbers again, by name."""
    return {name: value.dequantise() if isinstance(value, Int8Tensor) else value for name, value in tensors.items()}


def flattened(tensors: Mapping[str, Tensor | Int8Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, by their names there."""
    flat: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if isinstance(value, Int8Tensor):
            flat[name + VALUES], flat[name + SCALE] = value
        else:
            flat[name] = value
    return flat


def shapes_of(stored: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights in a file of this format, by name.

    Args:
        stored: shapes of the file's own tensors, by their names there.
    Raises:
        ValueError: the scales of a weight are not there or not one per channel, or a name stands twice.
    """
    scales, shapes = set[str](), dict[str, tuple[int, ...]]()
    for key, shape in stored.items():
        if key.endswith(VALUES):
            name = key.removesuffix(VALUES)
            scale = stored.get(name + SCALE)
            if len(shape) < 2 or scale is None or tuple(scale) != (shape[0],) or name in stored:
                raise ValueError(f"{name} is no integers with a scale per channel")
            scales.add(name + SCALE)
            shapes[name] = tuple(shape)
    return {**{key: tuple(shape) for key, shape in stored.items() if not _of_a_pair(key, scales)}, **shapes}


def _of_a_pair(key: str, scales: set[str]) -> bool:
    return key.endswith(VALUES) or key in scales


def restored(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in a file of this format as numbers, by name.

    Args:
        stored: the file's own tensors, by their names there.
    Raises:
        ValueError: integers or scales of another type or shape, or a scale that is negative or not finite.
    """
    weights = {}
    for name in shapes_of({key: value.shape for key, value in stored.items()}):
        if name in stored:
            weights[name] = stored[name]
            continue
        kept = Int8Tensor(stored[name + VALUES], stored[name + SCALE])
        types = (kept.values.dtype, kept.scale.dtype)
        if types != (torch.int8, torch.float32) or not bool(((kept.scale >= 0) & (kept.scale <= _LIMIT)).all()):
            raise ValueError(f"{name} is no integers with a scale per channel")
        weights[name] = kept.dequantise()
    return weights
