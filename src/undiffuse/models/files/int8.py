"""Weights quantised to int8 with a scale per output channel: a quarter of the size of float32, half of bfloat16.

A weight w of output channel c is stored as an integer q with w' = s_c q, |q| <= 127 and |w - w'| <= s_c / 2. The scale
s_c is the channel's largest |w| divided by 127, rounded up to 17 significant bits, so that every s_c q is exact in
float32, and quantising dequantised weights gives the same bytes again (ADR 0065).

In a file, the weight ``NAME`` is the pair ``NAME.int8``, int8 (C, ...), and ``NAME.scale``, float32 (C,); the metadata
contains the format. Only large weights are quantised, see ``int8_names``; other parameters are stored in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from undiffuse.errors import UsageError

#: Name of this format in a file's metadata.
FORMAT = "int8_per_channel"
#: Weights with fewer elements, such as the first and last convolutions, stay in bfloat16.
SMALLEST = 8192
VALUES, SCALE = ".int8", ".scale"
#: The largest integer of a channel.
_LARGEST = 127
#: Significant bits of a scale: 24 of float32 minus 7 of an integer.
_SCALE_BITS = 17
#: Upper bound of |w|, so that the largest integer times the scale is finite in float32.
_LIMIT = 2.0**126


class Int8Tensor(NamedTuple):
    """A quantised weight.

    Attributes:
        values: int8 (C, ...).
        scale: float32 (C,), one scale per output channel.
    """

    values: Tensor
    scale: Tensor

    def dequantise(self) -> Tensor:
        """The weight w' = s_c q, float32 (C, ...)."""
        return self.values.float() * self.scale.view(-1, *[1] * (self.values.dim() - 1))


def quantise(weight: Tensor, name: str = "weight") -> Int8Tensor:
    """Quantise a weight with error |w - w'| <= s_c / 2.

    Args:
        weight: (C, ...), at least two dimensions; C is the number of output channels.
        name: name of the weight for messages.
    Returns:
        Integers and scales, on the CPU; a channel of zeros has the scale 0.
    Raises:
        UsageError: if a value is not finite or too large.
    Example:
        >>> quantised = quantise(torch.tensor([[1.27, -0.5], [0.0, 0.0]]))
        >>> quantised.values.tolist()
        [[127, -50], [0, 0]]
    """
    rows = weight.detach().to("cpu", torch.float64).flatten(1)
    largest = rows.abs().amax(1)
    if not bool((largest <= _LIMIT).all()):
        raise UsageError(
            f"{name} has values that are not finite, or above 2^126, and cannot be quantised; leave --int8 out"
        )
    scale = _scale(largest / _LARGEST)
    values = torch.round(rows / torch.where(scale > 0, scale, 1.0)[:, None])
    return Int8Tensor(values.to(torch.int8).view(weight.shape), scale.float())


def _scale(exact: Tensor) -> Tensor:
    """Round up to ``_SCALE_BITS`` significant bits, at least the smallest normal float32 number; 0 for 0."""
    mantissa, exponent = torch.frexp(exact)
    rounded = torch.ldexp(torch.ceil(mantissa * 2**_SCALE_BITS) / 2**_SCALE_BITS, exponent)
    return torch.where(exact > 0, rounded.clamp(min=torch.finfo(torch.float32).tiny), 0.0)


def int8_names(module: nn.Module) -> set[str]:
    """Names of the parameters to quantise: large ones with channels, except embedding tables."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return {
        name
        for name, value in module.named_parameters()
        if value.dim() >= 2 and value.numel() >= SMALLEST and value.is_floating_point() and id(value) not in tables
    }


def as_int8(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor | Int8Tensor]:
    """Quantise the large weights of a model and convert its other parameters to bfloat16.

    Args:
        module: the model; tensors that are not its parameters are unchanged.
        tensors: tensors by name.
    Raises:
        UsageError: if a large weight has a non-finite value.
    """
    large, parameters = int8_names(module), {name for name, _ in module.named_parameters()}
    converted: dict[str, Tensor | Int8Tensor] = {}
    for name, value in tensors.items():
        small = value.to(torch.bfloat16) if name in parameters and value.is_floating_point() else value
        converted[name] = quantise(value, name) if name in large else small
    return converted


def dequantised(tensors: Mapping[str, Tensor | Int8Tensor]) -> dict[str, Tensor]:
    """The tensors by name, with quantised ones dequantised."""
    return {name: value.dequantise() if isinstance(value, Int8Tensor) else value for name, value in tensors.items()}


def flattened(tensors: Mapping[str, Tensor | Int8Tensor]) -> dict[str, Tensor]:
    """Convert to the tensors of a file, by their names in the file."""
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
        stored: shapes of the tensors in the file, by their names in the file.
    Raises:
        ValueError: if the scales of a weight are missing or not one per channel, or a name occurs twice.
    """
    scales, shapes = set[str](), dict[str, tuple[int, ...]]()
    for key, shape in stored.items():
        if key.endswith(VALUES):
            name = key.removesuffix(VALUES)
            scale = stored.get(name + SCALE)
            if len(shape) < 2 or scale is None or tuple(scale) != (shape[0],) or name in stored:
                raise ValueError(f"{name} is not int8 with a scale per channel")
            scales.add(name + SCALE)
            shapes[name] = tuple(shape)
    return {**{key: tuple(shape) for key, shape in stored.items() if not _is_quantised(key, scales)}, **shapes}


def _is_quantised(key: str, scales: set[str]) -> bool:
    return key.endswith(VALUES) or key in scales


def restored(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The dequantised weights in a file of this format, by name.

    Args:
        stored: the tensors in the file, by their names in the file.
    Raises:
        ValueError: if integers or scales have a wrong dtype or shape, or a scale is negative or not finite.
    """
    weights = {}
    for name in shapes_of({key: value.shape for key, value in stored.items()}):
        if name in stored:
            weights[name] = stored[name]
            continue
        weight = Int8Tensor(stored[name + VALUES], stored[name + SCALE])
        types = (weight.values.dtype, weight.scale.dtype)
        if types != (torch.int8, torch.float32) or not bool(((weight.scale >= 0) & (weight.scale <= _LIMIT)).all()):
            raise ValueError(f"{name} is not int8 with a scale per channel")
        weights[name] = weight.dequantise()
    return weights
