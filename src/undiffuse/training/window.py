"""What is averaged between two rows of the journal; a checkpoint in between keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Window:
    """Running sums of the loss, of the gradient's norm, and of whatever metrics the steps report."""

    def __init__(self) -> None:
        self.loss, self.grad_norm, self.steps = 0.0, 0.0, 0
        self._facts: dict[str, tuple[Tensor, int]] = {}

    def add_step(self, loss: float, grad_norm: float) -> None:
        """One optimizer step."""
        self.loss += loss
        self.grad_norm += grad_norm
        self.steps += 1

    def add_metrics(self, metrics: Mapping[str, Tensor]) -> None:
        """Means () of one micro-batch, summed where they are, so that nobody waits for the device."""
        for name, value in metrics.items():
            before, count = self._facts.get(name, (torch.zeros((), dtype=torch.float64, device=value.device), 0))
            self._facts[name] = (before.to(value.device) + value.detach().double(), count + 1)

    def means(self) -> dict[str, float]:
        """Loss, norm, and each fact over the micro-batches that reported it."""
        steps = max(self.steps, 1)
        facts = {name: float(total) / count for name, (total, count) in self._facts.items()}
        return {"loss": self.loss / steps, "grad_norm": self.grad_norm / steps, **facts}

    def counters(self) -> dict[str, Any]:
        """All of it as plain values."""
        facts = {name: [float(total), count] for name, (total, count) in self._facts.items()}
        return {"loss": self.loss, "grad_norm": self.grad_norm, "steps": self.steps, "facts": facts}

    @classmethod
    def of(cls, counters: Mapping[str, Any]) -> Window:
        """What ``counters`` gave; checkpoints from before there were facts have none."""
        window = cls()
        window.loss, window.grad_norm, window.steps = (counters[name] for name in ("loss", "grad_norm", "steps"))
        for name, (total, count) in counters.get("facts", {}).items():
            window._facts[name] = (torch.tensor(total, dtype=torch.float64), count)
        return window
