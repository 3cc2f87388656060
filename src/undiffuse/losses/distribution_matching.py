"""Distribution matching distillation (DMD): the gradient that moves the distribution of samples to the teacher's.

The gradient of KL(samples, noised to t || data, noised to t) by a sample x_0 is the difference of two scores at x_t,
that of the samples' distribution and that of the data's, or alpha / sigma^2 times

    x_0-hat of the samples' fake denoiser  -  x_0-hat of the teacher.

The student follows its mean over t. The samples' denoiser (the "fake score") is trained together with the student.

Source: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation", arXiv:2311.18828, eqs. 1-8;
without its regression term, the samples' denoiser trained more often than the student, Yin et al. 2024, "Improved
Distribution Matching Distillation for Fast Image Synthesis", arXiv:2405.14867, secs. 4.1-4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.rows import mean_over_features, per_row

#: Lower limit of the distance that a direction is divided by.
_MIN_SIZE = 1e-3


@torch.no_grad()
def matching_direction(x_0: Tensor, teacher: Tensor, fake: Tensor) -> Tensor:
    """The gradient of the divergence at each sample, normalised to a similar size at all noise levels.

    Args:
        x_0: (B, ...) the samples.
        teacher: (B, ...) the teacher's x_0-hat at the noised samples.
        fake: (B, ...) the x_0-hat of the samples' denoiser.
    Returns:
        (B, ...) (fake - teacher) / mean |x_0 - teacher|, the mean per sample.
    Source: Yin et al. 2024, arXiv:2311.18828, eqs. 7 and 8.
    """
    size = mean_over_features((x_0 - teacher).abs()).clamp(min=_MIN_SIZE)
    return (fake - teacher) / per_row(size, x_0)


def matching_loss(x_0: Tensor, direction: Tensor) -> Tensor:
    """A loss whose gradient with respect to a sample is ``direction`` divided by its number of features.

    Args:
        x_0: (B, ...) the samples, with a gradient.
        direction: (B, ...) of ``matching_direction``.
    Returns:
        (B,).
    """
    return mean_over_features((x_0 - (x_0 - direction).detach()) ** 2) / 2
