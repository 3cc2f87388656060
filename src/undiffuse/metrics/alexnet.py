"""AlexNet's five convolutions as LPIPS uses them: the feature maps after each ReLU.

The single-tower AlexNet (Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks",
arXiv:1404.5997) with the weights that LPIPS was calibrated on.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

#: (channels in, channels out, kernel, stride, padding, max-pooled before)
LAYERS = (
    (3, 64, 11, 4, 2, False),
    (64, 192, 5, 1, 2, True),
    (192, 384, 3, 1, 1, True),
    (384, 256, 3, 1, 1, False),
    (256, 256, 3, 1, 1, False),
)
CHANNELS = tuple(row[1] for row in LAYERS)
SMALLEST = 31  # side in pixels at which the last feature map is 1x1


class AlexNetMaps(nn.Module):
    """The five feature maps of standardised float images (B, 3, H, W), H and W at least 31."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel, stride, padding)
            for inputs, outputs, kernel, stride, padding, _ in LAYERS
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C_l, H_l, W_l) for l = 1..5, non-negative."""
        maps, x = [], images
        for convolution, row in zip(self.convolutions, LAYERS, strict=True):
            x = F.relu(convolution(F.max_pool2d(x, 3, 2) if row[-1] else x))
            maps.append(x)
        return maps
