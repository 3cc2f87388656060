"""Unrolled GANs: the discriminator's next k steps as a function of the generator's parameters.

A generator that minimises against theta^0 follows the discriminator of the moment and jumps from mode to mode.
The unrolled one minimises against theta^k, with

    theta^{i+1} = theta^i - eta grad_theta L_D(theta^i, generator)

for plain steps, and its gradient goes through all of them, so that it includes the discriminator's response. After
the step the discriminator goes on from theta^0 as if nothing had been unrolled. k = 0 is the plain GAN.

Source: Metz et al. 2016, "Unrolled Generative Adversarial Networks", arXiv:1611.02163, eq. 6 to 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
Rule = Literal["adam", "sgd"]

#: Of the look-ahead by Adam: decay of the mean and of the mean square, and what is added to the latter.
_BETA_1, _BETA_2, _EPS = 0.5, 0.999, 1e-8


def unrolled(
    loss: Callable[[Parameters], Tensor], start: Mapping[str, Tensor], num_steps: int, rate: float, rule: Rule = "adam"
) -> Parameters:
    """theta^k, differentiable with respect to all that ``loss`` depends on but theta^0.

    Args:
        loss: the discriminator's, () of its parameters.
        start: theta^0; taken as constants.
        num_steps: k; with 0 ``start`` is returned, without a gradient.
        rate: eta.
        rule: ``sgd``, plain steps; ``adam``, Adam's from fresh averages, whose first step has the size eta whatever
            the gradient's is.
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
    """Adam's; the small number stands under the root, whose slope would be infinite at zero."""
    return (mean / (1 - _BETA_1**step)) / (square / (1 - _BETA_2**step) + _EPS**2).sqrt()
