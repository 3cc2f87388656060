"""Muon: momentum with orthogonalised matrix updates; Adam for parameters that are not matrices.

The gradient of a hidden layer is dominated by a few directions; replacing it by the nearest orthogonal matrix gives
all directions the same step size, which needs far fewer steps in short trainings. Kernels (O, I, h, w) are treated as
matrices (O, I h w). Unlike in the paper, this applies to all matrices, including the first and last layers and the
class embedding.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is
scalable for LLM training", arXiv:2502.16982 (the step size that matches Adam's).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from undiffuse.compute.backend import compute_dtype

#: Coefficients of the quintic Newton-Schulz iteration, which drives singular values towards 1, and its iterations.
_QUINTIC, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """Approximately U V^T of each matrix U S V^T, ``(N, rows, columns)`` in and out; singular values near 1."""
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal


def is_matrix(parameter: Tensor) -> bool:
    """Whether the parameter is the weight of a dense or convolutional layer."""
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) > 1


def product_dtype(device: torch.device | str) -> torch.dtype:
    """Dtype of the matrix products of the orthogonalisation, for which bfloat16 is precise enough.

    In float32 the fifteen products per matrix cost as much as the gradient. On processors without bfloat16 products,
    where these take twenty to thirty times as long, float32 is used.
    """
    return compute_dtype("bf16", device) or torch.float32


class Muon(torch.optim.Optimizer):
    """Muon for matrices and Adam for vectors, with one learning rate on the scale of Adam's.

    Args:
        parameters: parameters of a network, or groups of them, as for all optimizers of torch.
        lr: learning rate; the update of a matrix is scaled by ``0.2 sqrt(max(rows, columns))`` to match Adam's.
        momentum: momentum of the matrices (Nesterov).
        betas, eps: of Adam for the other parameters.
        weight_decay: decoupled weight decay of all parameters.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
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
        """Perform a single optimization step for every parameter that has a gradient."""
        for group in self.param_groups:
            parameters: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            self._move_matrices([p for p in parameters if is_matrix(p)], group)
            self._move_vectors([p for p in parameters if not is_matrix(p)], group)

    def _move_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        gradients, momenta = [_gradient(p) for p in parameters], [self._momentum(p) for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
        for shape, members in _by_shape(updates).items():
            moves = _orthogonal_updates([updates[member] for member in members])
            moved = [parameters[member] for member in members]
            steps = [move.view(weight.shape) for weight, move in zip(moved, moves, strict=True)]
            torch._foreach_add_(moved, steps, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum

    def _move_vectors(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """torch's Adam, over all vectors in one call."""
        if not parameters:
            return
        states = [self._moments(parameter) for parameter in parameters]
        on_cpu = parameters[0].device.type == "cpu"
        adam(
            parameters,
            [_gradient(parameter) for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=not on_cpu,  # on GPUs the fused kernel requires the step count on the device; ours is on the CPU
            fused=on_cpu,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


def _by_shape(updates: Sequence[Tensor]) -> dict[tuple[int, int], list[int]]:
    """Indices of the updates, grouped by matrix shape."""
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, update in enumerate(updates):
        members[(update.shape[0], update[0].numel())].append(number)
    return members


def _orthogonal_updates(updates: list[Tensor]) -> tuple[Tensor, ...]:
    """Matrices of the same shape, orthogonalised in one batch; the dtype is unchanged."""
    stacked = torch.stack([update.flatten(1) for update in updates])
    half = stacked.to(product_dtype(stacked.device))
    return orthogonalised(half).to(stacked.dtype).contiguous().unbind()


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
