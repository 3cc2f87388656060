"""The optimizers of an objective, one per phase, with their state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from undiffuse.objectives.base import Phase
from undiffuse.registry import lookup
from undiffuse.training.config import OptimizerConfig
from undiffuse.training.muon import Muon, product_dtype
from undiffuse.training.schedule import learning_rate


class Optimizers:
    """Adam, AdamW or Muon over the parameters of each phase.

    Args:
        phases: the phases of the objective.
        config: the options.
        factors: factor of the learning rate by ``id`` of the parameter; 1 by default.
    """

    def __init__(
        self, phases: Sequence[Phase], config: OptimizerConfig, factors: Mapping[int, float] = MappingProxyType({})
    ) -> None:
        for phase in config.phase_learning_rates:
            lookup({known.name: known for known in phases}, phase, "phase in optimizer.phase_learning_rates")
        self.config = config
        self.learning_rate = 0.0
        self._parameters = {phase.name: phase.parameters() for phase in phases}
        groups = {phase: _by_factor(parameters, factors) for phase, parameters in self._parameters.items()}
        self._factors = {phase: list(by_factor) for phase, by_factor in groups.items()}
        self._optimizers = {phase: _build(config, list(group.values())) for phase, group in groups.items()}

    def product_dtype(self, device: torch.device) -> torch.dtype | None:
        """Dtype of Muon's matrix products; None for other optimizers."""
        return product_dtype(device) if self.config.name == "muon" else None

    def zero_grad(self, phase: str) -> None:
        """Reset the phase's gradients."""
        self._optimizers[phase].zero_grad(set_to_none=True)

    def norm(self, phase: str) -> Tensor:
        """Total norm of the phase's gradients; does not modify them."""
        gradients = [parameter.grad for parameter in self._parameters[phase] if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def clip(self, phase: str, norm: Tensor) -> None:
        """Clip the phase's gradients, which have this finite total norm, to ``clip_norm``."""
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters[phase], self.config.clip_norm, norm)

    def step(self, phase: str, images: int, num_images: int) -> None:
        """Update the phase's parameters with the learning rate at this point of the run."""
        self.learning_rate = learning_rate(self.config, images, num_images)
        optimizer, config = self._optimizers[phase], self.config
        ratio = config.phase_learning_rates.get(phase, config.learning_rate) / config.learning_rate
        for group, factor in zip(optimizer.param_groups, self._factors[phase], strict=True):
            group["lr"] = self.learning_rate * ratio * factor
        optimizer.step()
        torch.autograd.graph.increment_version(self._parameters[phase])  # fused kernels do not increment it

    def tensors(self) -> dict[str, Tensor]:
        """The state of all optimizers, by ``phase.parameter.name``."""
        return {
            f"{phase}.{number}.{name}": value
            for phase, optimizer in self._optimizers.items()
            for number, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Load tensors returned by ``tensors``."""
        for phase, optimizer in self._optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                owner, number, name = key.split(".")
                if owner == phase:
                    state.setdefault(int(number), {})[name] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _by_factor(
    parameters: Sequence[torch.nn.Parameter], factors: Mapping[int, float]
) -> dict[float, list[torch.nn.Parameter]]:
    """The parameters grouped by the factor of their learning rate."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    return groups


def _build(config: OptimizerConfig, groups: list[list[torch.nn.Parameter]]) -> torch.optim.Optimizer:
    parameters = [{"params": group} for group in groups]
    shared: dict[str, Any] = {"lr": config.learning_rate, "betas": config.betas, "eps": config.eps}
    if config.name == "muon":
        return Muon(parameters, **shared, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(parameters, **shared, weight_decay=config.weight_decay, fused=True)
