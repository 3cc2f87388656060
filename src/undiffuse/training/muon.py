"""Muon: momentum whose matrices are made orthogonal before they move the weights; Adam for all that is no matrix.

A hidden layer's gradient is dominated by few directions; replacing it by the nearest orthogonal matrix moves all of
them alike, which in short trainings takes far fewer steps. Kernels (O, I, h, w) are matrices (O, I h w) here. Unlike in
the paper, all matrices are treated so: the first and last layers and the table of classes as well.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is
scalable for LLM training", arXiv:2502.16982 (the step size that matches Adam's).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

#: Coefficients of the quintic that drives all singular values towards 1, and how often it is applied.
_QUINTIC, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """Approximately U V^T of each matrix U S V^T, ``(N, rows, columns)`` in and out; singular values near 1."""
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal


def is_matrix(parameter: Tensor) -> bool:
    """Is this the weight of a dense or convolutional layer?"""
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) > 1


class Muon(torch.optim.Optimizer):
    """Muon on matrices, Adam on vectors, with one learning rate of Adam's size.

    Args:
        parameters: of a network.
        lr: a matrix moves by ``0.2 sqrt(max(rows, columns))`` times this, about what Adam would move it.
        momentum: of the matrices (Nesterov's form).
        betas, eps: of Adam on the rest.
        weight_decay: decoupled, on all.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            self._move_matrices([p for p in parameters if is_matrix(p)], group)
            self._move_vectors([p for p in parameters if not is_matrix(p)], group)

    def _move_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Matrices of one shape are orthogonalised together."""
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"]
            gradient = _gradient(parameter)
            momentum.lerp_(gradient, 1 - group["momentum"])
            update = torch.lerp(gradient, momentum, group["momentum"]).flatten(1)
            by_shape[(update.shape[0], update.shape[1])].append((parameter, update))
        for shape, pairs in by_shape.items():
            size = group["lr"] * 0.2 * max(shape) ** 0.5
            # five products a matrix cost as much as the gradient in float32; directions need no more than bfloat16
            moves = orthogonalised(torch.stack([update for _, update in pairs]).bfloat16())
            for (parameter, _), move in zip(pairs, moves.to(parameters[0].dtype), strict=True):
                parameter.sub_(move.reshape(parameter.shape), alpha=size)

    def _move_vectors(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["step"] += 1
            step = float(state["step"])
            gradient = _gradient(parameter)
            state["exp_avg"].lerp_(gradient, 1 - beta1)
            state["exp_avg_sq"].lerp_(gradient**2, 1 - beta2)
            scale = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt() + group["eps"]
            parameter.addcdiv_(state["exp_avg"], scale, value=-lr / (1 - beta1**step))


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
