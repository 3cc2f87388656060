"""Stopping at the first number that is not finite, before the optimizer moves, with what it takes to find the cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from undiffuse.errors import RunError
from undiffuse.files import replacing, write_json


class NonFiniteError(RunError):
    """A loss or a gradient became infinite or not a number; ``where`` is the folder with the evidence."""

    def __init__(self, message: str, where: Path) -> None:
        super().__init__(message)
        self.where = where


def first_bad_layer(module: nn.Module, forward: Callable[[], Any]) -> str | None:
    """Name of the first layer, in order of execution, whose output is not finite when ``forward`` runs again."""
    found: list[str] = []

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def check(layer: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append(f"{name} ({type(layer).__name__})")

        return check

    leaves = [(name, layer) for name, layer in module.named_modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(hook(name)) for name, layer in leaves]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def bad_parameters(module: nn.Module) -> list[str]:
    """Names of parameters that are not finite themselves."""
    return [name for name, value in module.named_parameters() if not bool(torch.isfinite(value).all())]


def bad_gradients(module: nn.Module) -> list[str]:
    """Names of parameters whose gradient is not finite, in order of definition."""
    return [
        name
        for name, value in module.named_parameters()
        if value.grad is not None and not bool(torch.isfinite(value.grad).all())
    ]


def stop(
    folder: Path, what: str, step: int, images: int, layer: str, indices: Tensor, tensors: dict[str, Tensor]
) -> None:
    """Save the evidence and raise.

    Args:
        folder: the run's; a folder ``nonfinite_step_N`` is made in it.
        what: what was not finite.
        layer: the first bad layer, or what is known of it.
        indices: numbers of the pictures in the data set, ``(B,)``.
        tensors: saved as they are, among them ``x_0`` (B, ...).
    Raises:
        NonFiniteError: always.
    """
    where = folder / f"nonfinite_step_{step}"
    numbers = indices.tolist()
    with replacing(where) as temporary:
        temporary.mkdir()
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            temporary / "batch.safetensors",
        )
        write_json(
            temporary / "report.json",
            {"what": what, "step": step, "images_seen": images, "first_bad_layer": layer, "training_items": numbers},
        )
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    raise NonFiniteError(
        f"{what} at step {step} ({images} images seen); first bad layer: {layer}; training pictures {shown}; the "
        f"optimizer was not moved and the batch is saved in {where}; lower optimizer.learning_rate or use system.precision=fp32",
        where,
    )
