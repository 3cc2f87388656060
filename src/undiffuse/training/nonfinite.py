"""Stopping at the first number that is not finite, before the optimizer moves, with what it takes to find the cause."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from undiffuse.data.dataset import Batch
from undiffuse.errors import RunError
from undiffuse.files import replacing, write_json
from undiffuse.images import image_of, save_png
from undiffuse.models.base import to_uint8
from undiffuse.sealed import sealed


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

    leaves = {name: layer for name, layer in module.named_modules() if not list(layer.children())}
    _run_watched(leaves, hook, forward)
    return found[0] if found else None


def _run_watched(
    layers: Mapping[str, nn.Module], hook: Callable[[str], Callable[..., None]], forward: Callable[[], Any]
) -> None:
    """Run ``forward`` once, with ``hook(name)`` after each of the layers; penalties differentiate within it."""
    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        with torch.enable_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()


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


def nonfinite_outside(module: nn.Module, parameters: Iterable[Tensor | None]) -> bool:
    """Is one of these, parameters or gradients, not finite though none of ``module``'s own is to blame?"""
    return not bad_parameters(module) and not all(bool(torch.isfinite(p).all()) for p in parameters if p is not None)


def first_bad_gradient(module: nn.Module, forward: Callable[[], Any]) -> str | None:
    """Name of the parameter whose gradient the backward pass spoilt first.

    The backward pass runs the forward pass in reverse, so it is the one whose layer ``forward``, run again, reaches
    last.
    """
    reached: list[str] = []
    owners = {name: layer for name, layer in module.named_modules() if list(layer.parameters(recurse=False))}
    _run_watched(owners, lambda name: lambda *_: reached.append(name), forward)
    order = {name: number for number, name in enumerate(reached)}
    return max(bad_gradients(module), key=lambda name: order.get(name.rpartition(".")[0], -1), default=None)


def cause_of(module: nn.Module, x_0: Tensor, forward: Callable[[], Any]) -> str:
    """The earliest thing that is not finite: the data, a weight, a layer's output, or the loss itself."""
    if not bool(torch.isfinite(x_0).all()):
        return "none, the training data itself is not finite"
    if names := bad_parameters(module):
        return f"weights of {names[0]}"
    return first_bad_layer(module, forward) or "none, every layer is finite and the loss is not"


@dataclass(frozen=True)
class Evidence:
    """What is known of a number that is not finite.

    Args:
        what: was not finite.
        step: that was not made.
        images_seen: before it.
        first_bad_layer: or what is known of the cause.
        names: of the training items concerned, as their data set calls them.
        indices: their numbers in the data set.
        items: themselves as the loss saw them, images (B, C, H, W), uint8 or float32 in [-1, 1], or points (B, D).
        tensors: saved as they are, among them ``x_0`` (B, ...).
    """

    what: str
    step: int
    images_seen: int
    first_bad_layer: str
    names: list[str]
    indices: list[int]
    items: Tensor
    tensors: dict[str, Tensor]


def evidence_of(
    what: str,
    cause: str,
    batches: Sequence[Batch],
    samples: Tensor | None,
    t: Tensor | None,
    *,
    item_name: Callable[[int], str],
    step: int,
    images_seen: int,
) -> Evidence:
    """The evidence in the micro-batches of a step.

    Args:
        what: is not finite.
        cause: as far as it is known.
        batches: of the step, B samples in all.
        samples: which of them are concerned, bool (B,); None for all.
        t: their times (B,); None where they have none.
        item_name: of an item of the data set, by its number.
        step: that was not made.
        images_seen: before it.
    """
    x_0, items, indices = (
        torch.cat([getattr(batch, name) for batch in batches]).cpu() for name in ("x_0", "items", "indices")
    )
    samples = torch.ones(len(x_0), dtype=torch.bool) if samples is None else samples.cpu()
    return Evidence(
        what=what,
        step=step,
        images_seen=images_seen,
        first_bad_layer=cause,
        names=[item_name(index) for index in indices[samples].tolist()],
        indices=indices[samples].tolist(),
        items=items[samples],
        tensors={"x_0": x_0[samples]} | ({} if t is None else {"t": t.cpu()[samples]}),
    )


def stop(folder: Path, evidence: Evidence) -> None:
    """Save the evidence in the run's folder and raise.

    Raises:
        NonFiniteError: always.
    """
    where = folder / f"nonfinite_step_{evidence.step}"
    with replacing(where) as temporary:
        temporary.mkdir()
        tensors = {name: value.detach().contiguous() for name, value in evidence.tensors.items()}
        save_file(tensors, temporary / "batch.safetensors")
        report = {key: value for key, value in vars(evidence).items() if key not in ("items", "tensors")}
        write_json(temporary / "report.json", sealed(report))
        if evidence.items.ndim == 4:
            items = evidence.items if evidence.items.dtype == torch.uint8 else to_uint8(evidence.items)
            save_png(temporary / "images.png", image_of(items.numpy()))
    shown = ", ".join(evidence.names[:8]) + (f" and {len(evidence.names) - 8} more" if len(evidence.names) > 8 else "")
    raise NonFiniteError(
        f"{evidence.what} at step {evidence.step} ({evidence.images_seen} images seen); first bad layer: "
        f"{evidence.first_bad_layer}; training items: {shown}; the optimizer was not moved and the batch is saved in "
        f"{where}; start anew with a lower optimizer.learning_rate or system.precision=fp32",
        where,
    )
