"""One optimizer for each phase of an objective, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from undiffuse.objectives.base import Phase
from undiffuse.registry import lookup
from undiffuse.training.config import OptimizerConfig
from undiffuse.training.muon import Muon, products
from undiffuse.training.schedule import learning_rate


class Optimizers:
    """Adam, AdamW or Muon over what each phase moves."""

    def __init__(self, phases: Sequence[Phase], config: OptimizerConfig) -> None:
        for phase in config.phase_learning_rates:
            lookup({known.name: known for known in phases}, phase, "phase in optimizer.phase_learning_rates")
        self.config = config
        self.learning_rate = 0.0
        self._parameters = {phase.name: phase.parameters() for phase in phases}
        self._optimizers = {phase: _make(config, parameters) for phase, parameters in self._parameters.items()}

    def products(self, device: torch.device) -> torch.dtype | None:
        """What Muon multiplies its matrices in; None for optimizers that do not multiply any."""
        return products(device) if self.config.name == "muon" else None

    def zero_grad(self, phase: str) -> None:
        """Forget the phase's gradients."""
        self._optimizers[phase].zero_grad(set_to_none=True)

    def norm(self, phase: str) -> Tensor:
        """Norm of the phase's whole gradient, which stays as it is."""
        gradients = [parameter.grad for parameter in self._parameters[phase] if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def clip(self, phase: str, norm: Tensor) -> None:
        """Clip a gradient of this finite norm to ``clip_norm``."""
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters[phase], self.config.clip_norm, norm)

    def step(self, phase: str, images: int, num_images: int) -> None:
        """Move the phase's parameters at the rate of this point of the run."""
        self.learning_rate = learning_rate(self.config, images, num_images)
        optimizer, config = self._optimizers[phase], self.config
        share = config.phase_learning_rates.get(phase, config.learning_rate) / config.learning_rate
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * share
        optimizer.step()
        torch.autograd.graph.increment_version(self._parameters[phase])  # of which fused kernels do not tell

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, by ``phase.parameter.name``."""
        return {
            f"{phase}.{number}.{name}": value
            for phase, optimizer in self._optimizers.items()
            for number, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``tensors`` gave."""
        for phase, optimizer in self._optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                owner, number, name = key.split(".")
                if owner == phase:
                    state.setdefault(int(number), {})[name] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _make(config: OptimizerConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": config.learning_rate, "betas": config.betas, "eps": config.eps}
    if config.name == "muon":
        return Muon(parameters, **shared, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(parameters, **shared, weight_decay=config.weight_decay, fused=True)
