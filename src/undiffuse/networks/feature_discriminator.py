"""A discriminator of noised images on the middle features of a diffusion network.

Source: Yin et al. 2024, arXiv:2405.14867, sec. 4.3 and appendix: a classification head on the bottleneck of the fake
score network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undiffuse.core.condition import Condition
from undiffuse.errors import UsageError
from undiffuse.networks.layers import at_least_float32, conv, group_norm, linear, norm_silu
from undiffuse.networks.unet import UNet


class DiscriminatorHead(nn.Module):
    """A logit from feature maps: norm, SiLU, convolution, norm, SiLU, mean over pixels, a dense layer.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (group_norm(channels, 32, 1e-5) for _ in range(2))
        self.conv = conv(channels, channels)
        self.out = linear(channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B,) in float32 or better.

        Args:
            features: (B, C, h, w).
        """
        h = norm_silu(self.norm2, self.conv(norm_silu(self.norm1, features)))
        with torch.autocast(h.device.type, enabled=False):  # logits are computed in full precision
            logits: Tensor = self.out(at_least_float32(h).mean((2, 3)).to(self.out.weight.dtype))
        return logits.squeeze(1)


class FeatureDiscriminator(nn.Module):
    """D(x_t, t): a discriminator of noised images on the features of a diffusion network; positive logits mean real.

    Args:
        network: a network with ``middle_features(x, c_noise, cond) -> (B, C, h, w)``, such as a U-Net.
        head: see ``discriminator_head``.
    """

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        """Logits (B,).

        Args:
            x: (B, C, H, W), noised images in the network's input scale.
            c_noise: (B,), time labels.
            cond: the network's condition.
        """
        out: Tensor = self.head(self.network.middle_features(x, c_noise, cond))  # type: ignore[operator]
        return out


def discriminator_head(network: nn.Module) -> DiscriminatorHead:
    """Build a head for the middle features of ``network``, initialised from torch's global random state.

    Raises:
        UsageError: a network that is not a U-Net.
    """
    if not isinstance(network, UNet):
        raise UsageError(
            f"the discriminator needs the middle features of a U-Net, but this model's network is a "
            f"{type(network).__name__}; leave system.adversarial out"
        )
    return DiscriminatorHead(network.middle_channels)
