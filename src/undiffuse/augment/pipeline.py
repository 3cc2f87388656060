"""The augmentation pipeline on a batch: flips, one combined warp, one combined colour map, cutout.

Random numbers are drawn on the CPU, identical for every device; pixels stay on their device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor

from undiffuse.augment.colour import COLOUR, NOT_FOR_GREY, recolour
from undiffuse.augment.config import AugmentConfig
from undiffuse.augment.cutout import CUTOUT, cut_out
from undiffuse.augment.geometry import GEOMETRY
from undiffuse.augment.transformation import Transformation, Uniforms, draw_numbers
from undiffuse.augment.warp import warp
from undiffuse.core.space import Space
from undiffuse.errors import UsageError

Draws = Mapping[str, Tensor]


def _flip_label(numbers: Tensor, strength: float) -> Tensor:
    return numbers[:, :1]


_MIRROR = Transformation((), None, _flip_label, 1, "")
#: Axis of each mirror.
MIRRORS = {"flip": -1, "flip_vertical": -2}

#: All transformations, in the order in which they are applied and in which their labels are concatenated.
TRANSFORMATIONS: dict[str, Transformation] = {**dict.fromkeys(MIRRORS, _MIRROR), **GEOMETRY, **COLOUR, "cutout": CUTOUT}


class Augmentation:
    """The transformations of a configuration for images of one shape.

    Args:
        config: probabilities and strengths.
        shape: (C, H, W) of an image, C 1 or 3.
    Attributes:
        transformations: those with a probability above zero; for grey images without those that need colour.
        left_out: names of enabled transformations that are disabled for grey images.
    Raises:
        UsageError: not the shape of an image.
    Example:
        >>> from undiffuse.augment.config import NoAugmentConfig
        >>> Augmentation(NoAugmentConfig(rotate=0.5), (3, 32, 32)).label_names
        ('rotate 1', 'rotate 2')
    """

    def __init__(self, config: AugmentConfig, shape: tuple[int, ...]) -> None:
        if not Space.of_data(shape).is_image or shape[0] not in (1, 3):
            raise UsageError(
                f"augmentation is for grey or RGB images (C, H, W), got items of shape {tuple(shape)}; "
                "leave it out (augment=none)"
            )
        self.config, self.shape = config, tuple(shape)
        requested = [name for name in TRANSFORMATIONS if getattr(config, name) > 0]
        self.left_out = [name for name in requested if shape[0] == 1 and name in NOT_FOR_GREY]
        self.transformations = {name: TRANSFORMATIONS[name] for name in requested if name not in self.left_out}

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the components of the conditioning vector."""
        return tuple(
            name if part.num_labels == 1 else f"{name} {number + 1}"
            for name, part in self.transformations.items()
            for number in range(part.num_labels)
        )

    def strength(self, name: str) -> float:
        """Strength of a transformation; 1 if it has no strength option."""
        option = TRANSFORMATIONS[name].strength
        return float(getattr(self.config, option)) if option else 1.0

    def draw(self, rng: Uniforms, count: int, scale: float = 1.0) -> Draws:
        """Draw the transformations of ``count`` images: (count, 1 + n) float64 numbers each, on the CPU.

        Args:
            rng: draws on the CPU.
            scale: factor for all probabilities, in [0, 1], used by adaptive augmentation.
        """
        return {
            name: draw_numbers(name, part, scale * getattr(self.config, name), rng, count)
            for name, part in self.transformations.items()
        }

    def label(self, draws: Draws) -> Tensor:
        """The conditioning vector, (B, len(label_names)) float32; zero for an unchanged image."""
        labels = [TRANSFORMATIONS[name].label(numbers, self.strength(name)) for name, numbers in draws.items()]
        return torch.cat(labels, dim=1).float() if labels else torch.empty(0)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Transform a batch of images.

        Args:
            images: (B, C, H, W), uint8, or float in [-1, 1], through which gradients flow.
            draws: result of ``draw``; transformations without an entry are not applied.
        Returns:
            float in [-1, 1]; images without any transformation are returned unchanged, bit for bit.
        """
        x = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images
        for name, axis in MIRRORS.items():
            if name in draws:
                mirrored = (draws[name][:, 0] > 0).to(x.device)[:, None, None, None]
                x = torch.where(mirrored, x.flip(axis), x)
        x = self._mapped(x, draws, GEOMETRY, lambda rows, maps: warp(rows, maps, self.config.padding))
        x = self._mapped(x, draws, COLOUR, recolour)
        return cut_out(x, draws["cutout"], self.config.cutout_share) if "cutout" in draws else x

    def _mapped(
        self, x: Tensor, draws: Draws, parts: Mapping[str, Transformation], apply: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Apply the product of the matrices of ``parts``, clamped to [-1, 1]; other images stay unchanged."""
        chosen = {name: numbers for name, numbers in draws.items() if name in parts}
        if not chosen:
            return x
        is_applied = torch.stack([numbers[:, 0] for numbers in chosen.values()]).amax(dim=0)
        rows = is_applied.nonzero()[:, 0]
        size = (x.shape[-2], x.shape[-1])
        maps = [self._matrix(name, numbers[rows], size) for name, numbers in chosen.items()]
        product = reduce(lambda before, after: after @ before, maps)
        rows = rows.to(x.device)
        return x.index_copy(0, rows, apply(x[rows], product).clamp(-1, 1))

    def _matrix(self, name: str, numbers: Tensor, size: tuple[int, int]) -> Tensor:
        matrix = TRANSFORMATIONS[name].matrix
        assert matrix is not None
        return matrix(numbers, self.strength(name), size)
