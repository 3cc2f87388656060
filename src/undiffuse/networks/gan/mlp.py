"""MLPs for 2D points: generator and discriminator of the toy experiment of unrolled GANs.

Source: Metz et al. 2016, "Unrolled Generative Adversarial Networks", arXiv:1611.02163, appendix A.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from undiffuse.core.condition import Condition
from undiffuse.networks.gan.config import MLPDiscriminatorConfig, MLPGeneratorConfig
from undiffuse.networks.gan.parts import ClassInput, ProjectionHead


class MLPGenerator(nn.Module):
    """See ``MLPGeneratorConfig``; examples of any shape.

    Args:
        config: the configuration.
        shape: (D,) of one example, or any other shape.
        latent_size: L.
        num_classes: number of classes; with 0 labels are ignored.
    """

    def __init__(
        self, config: MLPGeneratorConfig, shape: tuple[int, ...], latent_size: int, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.classes = ClassInput(num_classes, config.width)
        self.hidden = _hidden(latent_size + self.classes.width, config.width, config.num_layers, config.gain)
        self.head = _orthogonal(nn.Linear(config.width, math.prod(shape)), config.gain)

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        """Examples (B, *shape).

        Args:
            z: (B, L), standard normal latents.
            cond: its label (B,) is used, if the network has classes.
        """
        out: Tensor = self.head(self.hidden(self.classes(z, cond)))
        return out.view(len(z), *self.shape)


class MLPDiscriminator(nn.Module):
    """See ``MLPDiscriminatorConfig``.

    Args:
        config: the configuration.
        shape: (D,) of one example, or any other shape.
        num_classes: number of classes; with 0 labels are ignored.
    """

    def __init__(self, config: MLPDiscriminatorConfig, shape: tuple[int, ...], num_classes: int = 0) -> None:
        super().__init__()
        self.hidden = _hidden(math.prod(shape), config.width, config.num_layers, config.gain)
        self.verdict = ProjectionHead(config.width, num_classes)  # data
        _orthogonal(self.verdict.linear, config.gain)  # data

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        """Logits (B,), larger for real data.

        Args:
            x: (B, *shape).
            cond: its label (B,) is used, if the network has classes.
        """
        logits: Tensor = self.verdict(self.hidden(x.flatten(1)), cond)  # data
        return logits


def _hidden(size: int, width: int, num_layers: int, gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(num_layers):
        layers += [_orthogonal(nn.Linear(width if index else size, width), gain), nn.ReLU()]
    return nn.Sequential(*layers)


def _orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
