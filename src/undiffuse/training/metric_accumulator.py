"""Running averages between two rows of the metrics log; saved in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

#: Key of the metrics in a checkpoint's counters.
_METRICS = "facts"  # data


class MetricAccumulator:
    """Running sums of the loss, the gradient norm, and all metrics that the steps report."""

    def __init__(self) -> None:
        self.loss, self.grad_norm, self.steps = 0.0, 0.0, 0
        self._metrics: dict[str, tuple[Tensor, int]] = {}

    def add_step(self, loss: float, grad_norm: float) -> None:
        """Add one optimizer step.

        Args:
            loss: mean loss over the step's images.
            grad_norm: total gradient norm before clipping.
        """
        self.loss += loss
        self.grad_norm += grad_norm
        self.steps += 1

    def add_metrics(self, metrics: Mapping[str, Tensor]) -> None:
        """Add the metrics () of one micro-batch, summed on their device to avoid synchronization."""
        for name, value in metrics.items():
            before, count = self._metrics.get(name, (torch.zeros((), dtype=torch.float64, device=value.device), 0))
            self._metrics[name] = (before.to(value.device) + value.detach().double(), count + 1)

    def means(self) -> dict[str, float]:
        """Mean loss, mean gradient norm, and the mean of each metric over the micro-batches that reported it."""
        steps = max(self.steps, 1)
        metrics = {name: float(total) / count for name, (total, count) in self._metrics.items()}
        return {"loss": self.loss / steps, "grad_norm": self.grad_norm / steps, **metrics}

    def counters(self) -> dict[str, Any]:
        """The state as plain values, for a checkpoint."""
        metrics = {name: [float(total), count] for name, (total, count) in self._metrics.items()}
        return {"loss": self.loss, "grad_norm": self.grad_norm, "steps": self.steps, _METRICS: metrics}

    @classmethod
    def of(cls, counters: Mapping[str, Any]) -> MetricAccumulator:
        """Restore an accumulator from ``counters``; checkpoints of the first versions have no metrics."""
        accumulator = cls()
        accumulator.loss, accumulator.grad_norm = counters["loss"], counters["grad_norm"]
        accumulator.steps = counters["steps"]
        for name, (total, count) in counters.get(_METRICS, {}).items():
            accumulator._metrics[name] = (torch.tensor(total, dtype=torch.float64), count)
        return accumulator
