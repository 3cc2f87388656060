"""Unrolled GANs: the discriminator's next k steps as a function of the generator's parameters.

A generator that minimises against theta^0 follows the current discriminator and can jump from mode to mode.
The unrolled generator minimises against theta^k, with

    theta^{i+1} = theta^i - eta grad_theta L_D(theta^i, generator)

for SGD steps, and its gradient is backpropagated through all of them, so it includes the discriminator's response.
After the generator's step the discriminator continues from theta^0. k = 0 is the standard GAN.

Source: Metz et al. 2016, "Unrolled Generative Adversarial Networks", arXiv:1611.02163, eq. 6 to 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
Rule = Literal["adam", "sgd"]

#: beta_1, beta_2 and epsilon of the unrolled Adam steps.
_BETA_1, _BETA_2, _EPS = 0.5, 0.999, 1e-8


def unrolled(
    loss: Callable[[Parameters], Tensor], start: Mapping[str, Tensor], num_steps: int, rate: float, rule: Rule = "adam"
) -> Parameters:
    """theta^k, differentiable with respect to everything that ``loss`` depends on except theta^0.

    Args:
        loss: the discriminator's loss () as a function of its parameters.
        start: theta^0; treated as constants.
        num_steps: k; with 0 ``start`` is returned, without a gradient.
        rate: eta.
        rule: ``sgd``, plain steps; ``adam``, Adam from zero moments, whose first step has the size eta for every
            gradient.
    """
    theta = {name: value.detach() for name, value in start.items()}
    mean, square = ({name: torch.zeros_like(value) for name, value in theta.items()} for _ in range(2))
    for step in range(1, num_steps + 1):
        theta = {name: value if value.requires_grad else value.requires_grad_() for name, value in theta.items()}
        gradients = torch.autograd.grad(loss(theta), list(theta.values()), create_graph=True, allow_unused=True)
        for (name, value), gradient in zip(list(theta.items()), gradients, strict=True):
            if gradient is None:
                continue
            if rule == "sgd":
                theta[name] = value - rate * gradient
                continue
            mean[name] = _BETA_1 * mean[name] + (1 - _BETA_1) * gradient
            square[name] = _BETA_2 * square[name] + (1 - _BETA_2) * gradient.square()
            theta[name] = value - rate * _direction(mean[name], square[name], step)
    return theta


def _direction(mean: Tensor, square: Tensor, step: int) -> Tensor:
    """Adam's update; epsilon is inside the square root, whose derivative is infinite at zero."""
    return (mean / (1 - _BETA_1**step)) / (square / (1 - _BETA_2**step) + _EPS**2).sqrt()
