"""Post-hoc EMA: averages of the weights whose length is chosen after training.

Two averages with power-function profiles are tracked during training, and snapshots of both are written at intervals.
Any other profile is close to a linear combination of the snapshots' profiles, found by least squares, so its average is
approximated by the same combination of the snapshots, without training again.

With t counted in images, the average of exponent gamma is

    average(t) = integral over tau in [0, t] of p(tau) weights(tau),   p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1),

whose relative width sigma_rel, the standard deviation of p divided by t, determines gamma.

Source: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", arXiv:2312.02696,
sec. 3 and appendix C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.models.files.weights import read_weights, save_weights
from undiffuse.observer import SILENT, Observer
from undiffuse.training.config import PosthocConfig
from undiffuse.training.widths import WIDEST as WIDEST
from undiffuse.training.widths import check_width

#: Folder of the snapshots in a run's folder.
SNAPSHOTS = "snapshots"


def exponent(sigma_rel: float) -> float:
    """gamma of a relative width, where sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).

    Args:
        sigma_rel: above 0, at most 1 / sqrt(12) = 0.2887, the width of the arithmetic mean.
    Raises:
        UsageError: if ``sigma_rel`` is outside this range.
    Example:
        >>> round(exponent(0.05), 2), round(exponent(0.10), 2)
        (16.97, 6.94)
    """
    check_width(sigma_rel)
    inverse = sigma_rel**-2
    return float(max(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max(), 0.0))


class Profile(NamedTuple):
    """A power-function profile that ends at ``images`` with exponent ``gamma``."""

    images: float
    gamma: float


def overlaps(rows: Sequence[Profile], columns: Sequence[Profile]) -> NDArray[np.float64]:
    """Inner products of profiles, integral of p_a p_b, ``(len(rows), len(columns))``."""
    (t_a, g_a), (t_b, g_b) = (np.array(profiles, dtype=np.float64).reshape(-1, 2).T for profiles in (rows, columns))
    t_a, g_a = t_a[:, None], g_a[:, None]
    ratio = np.log(np.minimum(t_a, t_b)) * (g_a + g_b + 1) - np.log(t_a) * (g_a + 1) - np.log(t_b) * (g_b + 1)
    return np.asarray((g_a + 1) * (g_b + 1) / (g_a + g_b + 1) * np.exp(ratio))


def mixture(profiles: Sequence[Profile], target: Profile) -> tuple[NDArray[np.float64], float]:
    """Least-squares coefficients of the linear combination of ``profiles`` closest to ``target``, and its error.

    Returns:
        Coefficients ``(len(profiles),)``, which sum to about 1, and the norm of the residual relative to that of the
        target: 0 is exact, and more than a few hundredths means that there are too few snapshots.
    """
    gram, products = overlaps(profiles, profiles), overlaps(profiles, [target])[:, 0]
    scale = np.sqrt(np.diag(gram))
    coefficients = np.linalg.lstsq(gram / np.outer(scale, scale), products / scale, rcond=1e-12)[0] / scale
    squared_norm = float(overlaps([target], [target])[0, 0])
    residual = squared_norm - 2 * float(coefficients @ products) + float(coefficients @ gram @ coefficients)
    return coefficients, float(np.sqrt(max(residual, 0.0) / squared_norm))


def _trained_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Named parameters that require gradients, without those of a frozen guide."""
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


class PowerAverages:
    """Averages of a module's parameters with power-function profiles, updated during training.

    Args:
        module: the module to train.
        config: width of each average, and the interval between snapshots.
    """

    def __init__(self, module: nn.Module, config: PosthocConfig) -> None:
        self.snapshot_every_images = config.snapshot_every_images
        self.gammas = [exponent(width) for width in config.sigma_rel]
        self._names = [name for name, _ in _trained_parameters(module)]
        self._averages = [[p.detach().clone() for _, p in _trained_parameters(module)] for _ in self.gammas]

    @torch.no_grad()
    def update(self, module: nn.Module, images: int, batch_images: int) -> None:
        """Update with the weights after a step of ``batch_images``; ``images`` were seen before it."""
        current = [parameter.detach() for _, parameter in _trained_parameters(module)]
        for gamma, averages in zip(self.gammas, self._averages, strict=True):
            decay = (images / (images + batch_images)) ** (gamma + 1)
            torch._foreach_lerp_(averages, current, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """All averages, by ``number.parameter``."""
        return {
            f"{number}.{name}": value
            for number, averages in enumerate(self._averages)
            for name, value in zip(self._names, averages, strict=True)
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Load tensors returned by ``tensors``.

        Raises:
            UsageError: if a tensor is missing.
        """
        for name, value in self.tensors().items():
            if name not in tensors:
                raise UsageError(f"the checkpoint lacks the post-hoc average {name!r}; the run had no ema.posthoc")
            value.copy_(tensors[name])


def save_snapshot(run: Path, averages: PowerAverages, images: int) -> None:
    """Write a snapshot of the averages at this point of a run."""
    (run / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
    save_weights(run / SNAPSHOTS / f"images_{images:012d}.safetensors", averages.tensors())


def snapshots_of(run: Path) -> dict[int, Path]:
    """The run's snapshots by images seen, oldest first."""
    files = sorted((run / SNAPSHOTS).glob("images_*.safetensors"))
    return {int(path.stem.removeprefix("images_")): path for path in files}


class Reconstruction(NamedTuple):
    """Averaged parameters by name, the number of images at which the profile ends, and its relative error."""

    tensors: dict[str, Tensor]
    images: int
    error: float


def reconstruct(
    run: Path,
    snapshot_sigma_rel: Sequence[float],
    sigma_rel: float,
    observer: Observer = SILENT,
) -> Reconstruction:
    """Reconstruct the average of another width from a run's snapshots.

    Args:
        run: folder of a run that was trained with ``ema.posthoc``.
        snapshot_sigma_rel: widths of the averages in its snapshots.
        sigma_rel: width of the average; between 0.03 and 0.25 with twenty snapshots of 0.05 and 0.10.
        observer: receives the number of snapshots read and their total number.
    Raises:
        UsageError: if there are no snapshots, one is damaged, or the width is invalid.
    """
    gamma, files = exponent(sigma_rel), snapshots_of(run)
    if not files:
        raise UsageError(f"{run} has no snapshots of averages; train with ema.posthoc={{}} to keep them")
    last = max(files)
    profiles = [Profile(images, exponent(width)) for images in files for width in snapshot_sigma_rel]
    coefficients, error = mixture(profiles, Profile(last, gamma))
    totals: dict[str, Tensor] = {}
    for position, path in enumerate(files.values()):
        observer.progress(position, len(files))
        tensors = read_weights(path)
        for number in range(len(snapshot_sigma_rel)):
            coefficient = float(coefficients[position * len(snapshot_sigma_rel) + number])
            _add(totals, tensors, f"{number}.", coefficient)
    return Reconstruction({name: value.float() for name, value in totals.items()}, last, error)


def _add(totals: dict[str, Tensor], tensors: Mapping[str, Tensor], prefix: str, coefficient: float) -> None:
    """Add the scaled tensors with this prefix, in float64 because the coefficients alternate in sign."""
    for name, value in tensors.items():
        if name.startswith(prefix):
            key = name.removeprefix(prefix)
            total = totals.get(key, torch.zeros_like(value, dtype=torch.float64))
            totals[key] = total.add(value.double(), alpha=coefficient)
