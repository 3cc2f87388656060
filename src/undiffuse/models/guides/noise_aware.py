"""What models of noisy data that only guide others have in common."""

from __future__ import annotations

import torch
from torch import nn

from undiffuse.config import ComponentConfig, build
from undiffuse.core.process import Process
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity
from undiffuse.models.base import GenerativeModel
from undiffuse.models.fixed_batch import fixed_batch_size


class GuidingModel(GenerativeModel):
    """A model of data at the noise levels of a process, which generates no samples.

    Attributes:
        process: the process of training.
        network: the network of noisy data.
    """

    generates = False
    process: Process
    network: nn.Module
    _density: TimeDensity | None = None

    def set_trained_density(self, density: ComponentConfig | None) -> None:
        """Set the distribution of the training times.

        Args:
            density: an entry of ``TIME_DENSITIES``; None for all times.
        """
        self._density = None if density is None else build(TIME_DENSITIES, density)

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """(smallest, largest) log-SNR of training; infinite where a process begins or ends without signal or noise."""
        ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
        low, high = self.process.log_snr(ends if self._density is None else self._density(self.process, ends)).tolist()
        return low, high

    @property
    def batch_size(self) -> int:
        """Fixed number of samples per evaluation outside of training, so that samples do not depend on each other."""
        return fixed_batch_size(self.network, self.shape, self.device)
