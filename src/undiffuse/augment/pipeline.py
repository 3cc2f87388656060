"""All transformations of a configuration on a batch: mirrored, moved once, recoloured once, cut out.

Numbers are drawn on the CPU, the same for every kind of device; pixels stay where they are.
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


def _made(numbers: Tensor, strength: float) -> Tensor:
    return numbers[:, :1]


_MIRROR = Transformation((), None, _made, 1, "")
#: Axis of each mirror.
MIRRORS = {"flip": -1, "flip_vertical": -2}

#: Every transformation, in the order in which they are applied and of the numbers that condition a network.
TRANSFORMATIONS: dict[str, Transformation] = {**dict.fromkeys(MIRRORS, _MIRROR), **GEOMETRY, **COLOUR, "cutout": CUTOUT}


class Augmentation:
    """The transformations of a configuration for images of one shape.

    Args:
        config: probabilities and strengths.
        shape: (C, H, W) of an image, C 1 or 3.
    Attributes:
        transformations: those with a probability above zero; of grey images without those that need colour.
        left_out: names of those that grey images go without.
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
        """A name for each number that conditions a network."""
        return tuple(
            name if part.num_labels == 1 else f"{name} {number + 1}"
            for name, part in self.transformations.items()
            for number in range(part.num_labels)
        )

    def strength(self, name: str) -> float:
        """Of one transformation; 1 for those that have none."""
        option = TRANSFORMATIONS[name].strength
        return float(getattr(self.config, option)) if option else 1.0

    def draw(self, rng: Uniforms, count: int, scale: float = 1.0) -> Draws:
        """What is to be done to ``count`` images: (count, 1 + n) float64 numbers per transformation, on the CPU.

        Args:
            rng: draws on the CPU.
            scale: all probabilities are multiplied by it, as adaptive augmentation does; in [0, 1].
        """
        return {
            name: draw_numbers(name, part, scale * getattr(self.config, name), rng, count)
            for name, part in self.transformations.items()
        }

    def label(self, draws: Draws) -> Tensor:
        """The conditioning vector, (B, len(label_names)) float32; zero for an image left as it is."""
        labels = [TRANSFORMATIONS[name].label(numbers, self.strength(name)) for name, numbers in draws.items()]
        return torch.cat(labels, dim=1).float() if labels else torch.empty(0)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Do it.

        Args:
            images: (B, C, H, W), uint8, or float in [-1, 1], to which gradients then flow.
            draws: of ``draw``; transformations that are not among them are not made.
        Returns:
            float in [-1, 1]; an image that gets none of them is exactly as it was given.
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
        self, x: Tensor, draws: Draws, parts: Mapping[str, Transformation], make: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """The rows that get any of ``parts`` under the product of their matrices, cut to [-1, 1]; the others as is."""
        chosen = {name: numbers for name, numbers in draws.items() if name in parts}
        if not chosen:
            return x
        got = torch.stack([numbers[:, 0] for numbers in chosen.values()]).amax(dim=0)
        rows = got.nonzero()[:, 0]
        size = (x.shape[-2], x.shape[-1])
        maps = [self._matrix(name, numbers[rows], size) for name, numbers in chosen.items()]
        product = reduce(lambda before, after: after @ before, maps)
        rows = rows.to(x.device)
        return x.index_copy(0, rows, make(x[rows], product).clamp(-1, 1))

    def _matrix(self, name: str, numbers: Tensor, size: tuple[int, int]) -> Tensor:
        matrix = TRANSFORMATIONS[name].matrix
        assert matrix is not None
        return matrix(numbers, self.strength(name), size)
