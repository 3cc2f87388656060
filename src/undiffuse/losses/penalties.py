"""Gradient penalties of a discriminator: R1, R2 and that of WGAN-GP, in float32 or better.

    R1 = gamma/2 |grad_x D(x)|^2 at data,   R2 = the same at samples
    GP = lambda (|grad_x D(x_u)| - 1)^2 at x_u = u x + (1 - u) G(z),   u uniform in (0, 1), one per pair;
         one-sided: lambda ((|grad_x D(x_u)| - 1)_+)^2

Source: Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", arXiv:1801.04406, eq. 9 and 10;
Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", arXiv:1704.00028, eq. 3 and sec. 4.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gradient_norms(outputs: Tensor, x: Tensor) -> Tensor:
    """|grad_x D| of each sample, (B,), itself differentiable.

    Args:
        outputs: (B,) D(x), each a function of its own sample only.
        x: (B, ...), which must require gradients.
    """
    (gradient,) = torch.autograd.grad(outputs.sum(), x, create_graph=True)
    norm: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return norm


def zero_centred_penalty(outputs: Tensor, x: Tensor, gamma: float) -> Tensor:
    """gamma/2 |grad_x D|^2 of each sample, (B,): R1 at data, R2 at samples.

    Args:
        outputs: (B,) D(x), each a function of its own sample only.
        x: (B, ...), which must require gradients.
        gamma: weight of the penalty, at least 0.
    """
    (gradient,) = torch.autograd.grad(outputs.sum(), x, create_graph=True)
    return gamma / 2 * gradient.flatten(1).square().sum(1)


def interpolates(real: Tensor, fake: Tensor, u: Tensor) -> Tensor:
    """u x + (1 - u) G(z), requiring gradients.

    Args:
        real: (B, ...) data x.
        fake: (B, ...) samples G(z).
        u: (B,) in (0, 1).
    """
    share = u.to(real.dtype).reshape(-1, *[1] * (real.ndim - 1))
    return torch.lerp(fake.detach(), real.detach(), share).requires_grad_()


def gradient_penalty(outputs: Tensor, x: Tensor, weight: float, sided: str) -> Tensor:
    """weight (|grad_x D| - 1)^2 of each sample, (B,), the penalty of WGAN-GP.

    Args:
        outputs: (B,) D(x), each a function of its own sample only.
        x: (B, ...) interpolates, which must require gradients.
        weight: lambda, at least 0.
        sided: ``two`` for the formula above, ``one`` to penalise only gradient norms above 1.
    """
    excess = gradient_norms(outputs, x) - 1
    return weight * (excess.relu() if sided == "one" else excess).square()
