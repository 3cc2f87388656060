"""Stops training at the first non-finite value, before the optimizer step, and saves evidence of its cause."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from undiffuse.checksums import with_checksum
from undiffuse.data.dataset import Batch
from undiffuse.errors import RunError
from undiffuse.files import replacing, write_json
from undiffuse.images import image_of, save_png
from undiffuse.models.base import to_uint8


class NonFiniteError(RunError):
    """Raised if a loss or a gradient is infinite or NaN; ``where`` is the folder with the evidence."""

    def __init__(self, message: str, where: Path) -> None:
        super().__init__(message)
        self.where = where


def first_bad_layer(module: nn.Module, forward: Callable[[], Any]) -> str | None:
    """Name of the first layer, in execution order, whose output is not finite when ``forward`` is run again."""
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
    """Run ``forward`` once with forward hooks ``hook(name)``; gradients are enabled for gradient penalties."""
    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        with torch.enable_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()


def bad_parameters(module: nn.Module) -> list[str]:
    """Names of parameters with non-finite values."""
    return [name for name, value in module.named_parameters() if not bool(torch.isfinite(value).all())]


def bad_gradients(module: nn.Module) -> list[str]:
    """Names of parameters with non-finite gradients, in order of definition."""
    return [
        name
        for name, value in module.named_parameters()
        if value.grad is not None and not bool(torch.isfinite(value.grad).all())
    ]


def nonfinite_outside(module: nn.Module, parameters: Iterable[Tensor | None]) -> bool:
    """Whether one of ``parameters`` (or gradients) is not finite while all parameters of ``module`` are finite."""
    return not bad_parameters(module) and not all(bool(torch.isfinite(p).all()) for p in parameters if p is not None)


def first_bad_gradient(module: nn.Module, forward: Callable[[], Any]) -> str | None:
    """Name of the parameter whose gradient became non-finite first.

    The backward pass visits layers in reverse order, so it belongs to the layer that ``forward``, run again, calls
    last.
    """
    reached: list[str] = []
    owners = {name: layer for name, layer in module.named_modules() if list(layer.parameters(recurse=False))}
    _run_watched(owners, lambda name: lambda *_: reached.append(name), forward)
    order = {name: number for number, name in enumerate(reached)}
    return max(bad_gradients(module), key=lambda name: order.get(name.rpartition(".")[0], -1), default=None)


def cause_of(module: nn.Module, x_0: Tensor, forward: Callable[[], Any]) -> str:
    """The earliest non-finite value: the data, a parameter, a layer's output, or the loss."""
    if not bool(torch.isfinite(x_0).all()):
        return "none, the training data itself is not finite"
    if names := bad_parameters(module):
        return f"weights of {names[0]}"
    return first_bad_layer(module, forward) or "none, every layer is finite and the loss is not"


@dataclass(frozen=True)
class Evidence:
    """Diagnostic information about a non-finite value.

    Args:
        what: description of the error.
        step: the step that was aborted.
        images_seen: number of images seen before that step.
        first_bad_layer: the first non-finite layer, or another cause.
        names: names of the affected training items in their data set.
        indices: their indices in the data set.
        items: the inputs of the loss, images (B, C, H, W), uint8 or float32 in [-1, 1], or points (B, D).
        tensors: tensors to save, including ``x_0`` (B, ...).
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
    """Collect the evidence from the micro-batches of a step.

    Args:
        what: description of the error.
        cause: the cause, as far as known.
        batches: micro-batches of the step, B samples in total.
        samples: mask (B,) of the affected samples; None for all.
        t: times (B,) of the samples; None if the loss has no times.
        item_name: maps the index of an item of the data set to its name.
        step: the step that was aborted.
        images_seen: number of images seen before that step.
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
    """Save the evidence in the run's folder and raise an error.

    Raises:
        NonFiniteError: always.
    """
    where = folder / f"nonfinite_step_{evidence.step}"
    with replacing(where) as temporary:
        temporary.mkdir()
        tensors = {name: value.detach().contiguous() for name, value in evidence.tensors.items()}
        save_file(tensors, temporary / "batch.safetensors")
        report = {key: value for key, value in vars(evidence).items() if key not in ("items", "tensors")}
        write_json(temporary / "report.json", with_checksum(report))
        if evidence.items.ndim == 4:
            items = evidence.items if evidence.items.dtype == torch.uint8 else to_uint8(evidence.items)
            save_png(temporary / "images.png", image_of(items.numpy()))
    shown = ", ".join(evidence.names[:8]) + (f" and {len(evidence.names) - 8} more" if len(evidence.names) > 8 else "")
    raise NonFiniteError(
        f"{evidence.what} at step {evidence.step} ({evidence.images_seen} images seen); first bad layer: "
        f"{evidence.first_bad_layer}; training items: {shown}; the step was not applied and the batch is saved in "
        f"{where}; start again with a lower optimizer.learning_rate or system.precision=fp32",
        where,
    )
