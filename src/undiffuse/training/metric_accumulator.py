"""What is averaged between two rows of the metrics log; a checkpoint in between keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

#: Key of the metrics in a checkpoint's counters.
_METRICS = "facts"  # data


class MetricAccumulator:
    """Running sums of the loss, of the gradient's norm, and of whatever metrics the steps report."""

    def __init__(self) -> None:
        self.loss, self.grad_norm, self.steps = 0.0, 0.0, 0
        self._metrics: dict[str, tuple[Tensor, int]] = {}

    def add_step(self, loss: float, grad_norm: float) -> None:
        """One optimizer step.

        Args:
            loss: mean over the step's images.
            grad_norm: of the whole gradient, before clipping.
        """
        self.loss += loss
        self.grad_norm += grad_norm
        self.steps += 1

    def add_metrics(self, metrics: Mapping[str, Tensor]) -> None:
        """Means () of one micro-batch, summed where they are, so that nobody waits for the device."""
        for name, value in metrics.items():
            before, count = self._metrics.get(name, (torch.zeros((), dtype=torch.float64, device=value.device), 0))
            self._metrics[name] = (before.to(value.device) + value.detach().double(), count + 1)

    def means(self) -> dict[str, float]:
        """Loss, norm, and each metric over the micro-batches that reported it."""
        steps = max(self.steps, 1)
        metrics = {name: float(total) / count for name, (total, count) in self._metrics.items()}
        return {"loss": self.loss / steps, "grad_norm": self.grad_norm / steps, **metrics}

    def counters(self) -> dict[str, Any]:
        """All of it as plain values."""
        metrics = {name: [float(total), count] for name, (total, count) in self._metrics.items()}
        return {"loss": self.loss, "grad_norm": self.grad_norm, "steps": self.steps, _METRICS: metrics}

    @classmethod
    def of(cls, counters: Mapping[str, Any]) -> MetricAccumulator:
        """What ``counters`` gave; checkpoints of the first versions have no metrics."""
        made = cls()
        made.loss, made.grad_norm, made.steps = (counters[name] for name in ("loss", "grad_norm", "steps"))
        for name, (total, count) in counters.get(_METRICS, {}).items():
            made._metrics[name] = (torch.tensor(total, dtype=torch.float64), count)
        return made
