"""The context of a study of images: a trained model, its training and held-out images, and conversions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BeforeValidator, model_validator
from torch import Tensor

from undiffuse.config import AsWritten, FrozenModel
from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.process import Process
from undiffuse.core.rows import per_row
from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError
from undiffuse.models.base import DenoisingModel, denoising, to_uint8
from undiffuse.models.classes import Classes
from undiffuse.models.saved import Model
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import Progress, sample
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.noise import NoiseSource, SeededNoise

ImageArray = npt.NDArray[np.uint8]
#: Default steps of a first-order stochastic sampler other than the model's.
_ANCESTRAL_STEPS = 100


@dataclass(frozen=True)
class ImageStudyContext:
    """A trained model of images and its data.

    Args:
        model: a trained model of images.
        load_data: returns (training, held-out) images; called once, when first needed.
        seed: base seed; sample i has seed + i.
    """

    model: Model
    load_data: Callable[[], tuple[Dataset, Dataset]]
    seed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.model.module.shape)

    @property
    def module(self) -> DenoisingModel:
        """The denoising model."""
        return denoising(self.model.module, "a study of denoising")

    @cached_property
    def denoiser(self) -> Denoiser:
        """The denoiser for sampling, in fixed batches, so that images do not depend on the batch size."""
        return self.module.sampling_denoiser().eval()

    @cached_property
    def unguided(self) -> Denoiser:
        """The denoiser without guidance, for inversion by the ODE."""
        return self.module.unguided_denoiser().eval()

    @property
    def process(self) -> Process:
        """The forward process."""
        return self.module.process

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.model.module.device

    @cached_property
    def data(self) -> tuple[Dataset, Dataset]:
        """(training, held-out) images."""
        return self.load_data()

    def real(self, count: int, split: str = "held out") -> Tensor:
        """``count`` real images, evenly spaced over a split (``held out`` or ``training``), uint8 (N, C, H, W).

        If no images were held out, training images are used.
        """
        train, held_out = self.data
        dataset = train if split == "training" or len(held_out) == 0 else held_out
        return dataset.fetch(evenly_spaced(len(dataset), count)).items

    def to_x(self, images: Tensor) -> Tensor:
        """Convert uint8 images to x_0 in [-1, 1], float32 on the model's device."""
        return images.to(self.device).float() / 127.5 - 1

    def condition(self, count: int, class_name: Classes = None) -> Condition | None:
        """Condition of ``count`` samples, by default cycling through all classes; ``None`` without classes."""
        return self.model.default_condition(count, class_name)

    def noise(self, count: int, first: int = 0) -> SeededNoise:
        """The noise of samples ``seed + first``, ``seed + first + 1``, ..."""
        return SeededNoise(self.seeds(count, first))

    def seeds(self, count: int, first: int = 0) -> range:
        """Seeds of ``count`` samples from ``seed + first`` on."""
        return range(self.seed + first, self.seed + first + count)

    def diffuse(self, x_0: Tensor, t: float, eps: Tensor) -> Tensor:
        """x_t = alpha(t) x_0 + sigma(t) eps for a batch at one time, in the dtype of ``x_0``."""
        times = torch.full((len(x_0),), t, dtype=torch.float64, device=x_0.device)
        alpha, sigma = per_row(self.process.alpha(times), x_0), per_row(self.process.sigma(times), x_0)
        return alpha * x_0 + sigma * eps.to(x_0)

    def times(self, num_steps: int | None = None, start: float = 1.0, grid: str | None = None) -> Tensor:
        """The model's time grid, or one with ``num_steps`` steps, from ``start`` down to 0.

        If ``start`` is inside the grid, the grid starts at exactly ``start``.
        """
        record = self.module.sampling_record()
        times = time_grid(
            grid or record["grid"], self.process, num_steps or record["steps"], self.denoiser.log_snr_range
        )
        if start >= float(times[0]):
            return times
        return torch.cat([torch.tensor([start], dtype=torch.float64), times[times < start]])

    def denoise_from(
        self,
        x_t: Tensor,
        times: Tensor,
        *,
        sampler: str | None = None,
        noise: NoiseSource | None = None,
        cond: Condition | None = None,
        callback: Callable[[Progress], None] | None = None,
        denoiser: Denoiser | None = None,
    ) -> Tensor:
        """Samples (B, C, H, W) in [-1, 1] from x_t at ``times[0]`` down to 0.

        Args:
            sampler: the model's by default.
            noise: for the steps of a stochastic sampler, one seed per sample; equal seeds share their step noise.
            cond: one row per sample; by default cycling through the classes.
            denoiser: replaces the default denoiser.
        """
        row = make_sampler(sampler or self.module.sampling_record()["sampler"])
        count = len(x_t)
        return sample(
            denoiser or self.denoiser,
            row,
            times,
            shape=self.shape,
            seeds=self.seeds(count),
            noise=noise,
            x_start=x_t,
            cond=cond if cond is not None else self.condition(count),
            callback=callback,
        ).x

    def finish(self, x: Tensor) -> ImageArray:
        """Images in [-1, 1] as uint8 (N, C, H, W)."""
        finished: ImageArray = to_uint8(x).cpu().numpy()
        return finished


class ClassOptions(FrozenModel):
    """The class in a study's options; the class named "3" may be written without quotes.

    Args:
        class_name: of all samples; by default cycling through all classes.
        no_class: sample without a class.
    """

    class_name: Annotated[
        str | None, AsWritten(), BeforeValidator(lambda value: str(value) if type(value) is int else value)
    ] = None
    no_class: bool = False

    @property
    def requested(self) -> Classes:
        """The classes as ``ImageStudyContext.condition`` takes them."""
        return [None] if self.no_class else self.class_name

    @model_validator(mode="after")
    def _check_exclusive(self) -> Self:
        if self.no_class and self.class_name is not None:
            raise ValueError(f"class_name={self.class_name} and no_class=true exclude each other; set only one of them")
        return self


class Plan(NamedTuple):
    """A sampler's name with its options, and the steps of its full grid."""

    sampler: str
    steps: int


def sampling_plan(
    context: ImageStudyContext, sampler: str | None, steps: int | None, *, stochastic: bool = False
) -> Plan:
    """The sampler and steps of a study: the given options, else the model's defaults.

    Args:
        stochastic: use ancestral sampling if the model's sampler is deterministic.
    """
    record = context.module.sampling_record()
    default, default_steps = str(record["sampler"]), int(record["steps"])
    if sampler is None and stochastic and not make_sampler(default).stochastic:
        return Plan("ancestral", steps or max(default_steps, _ANCESTRAL_STEPS))
    chosen = make_sampler(sampler or default)
    higher_order = sampler in (None, default) or chosen.order > 1
    chosen_steps = default_steps if higher_order else max(default_steps, _ANCESTRAL_STEPS)
    return Plan(sampler or default, steps or chosen_steps)


def real_pairs(
    context: ImageStudyContext, count: int, class_name: Classes = None
) -> tuple[Tensor, Tensor, Condition | None]:
    """``count`` pairs of different real images, uint8 (N, C, H, W) each, and the condition of each pair.

    If the model is conditional, both images of a pair are of one class: cycling through all classes, or the given one.

    Raises:
        UsageError: if the class is unknown, or the set is too small.
    """
    names = context.model.classes_of(class_name, count)
    train, held_out = context.data
    enough = all(len(_rows_of_class(held_out, name)) >= 2 for name in names or [None])
    dataset = held_out if enough and len(held_out) >= 2 * count else train
    chosen: list[npt.NDArray[np.int64]] = []
    for number in range(count):
        name = names[number] if names else None
        rows = _rows_of_class(dataset, name)
        if len(rows) < 2:
            of = f" of class {name!r}" if name is not None else ""
            raise UsageError(f"a pair{of} needs 2 real images, the data has {len(rows)}")
        spread = evenly_spaced(len(rows), 2 * count)
        chosen.append(rows[spread[np.array([2 * number, 2 * number + 1]) % len(spread)]])
    first, second = np.stack(chosen, axis=1)
    return dataset.fetch(first).items, dataset.fetch(second).items, context.model.condition(names)


def _rows_of_class(dataset: Dataset, name: str | None) -> npt.NDArray[np.int64]:
    """Indices of the items of a class; all items if ``name`` is ``None`` or not a class."""
    if name is None or name not in dataset.class_names or dataset.labels is None:
        return np.arange(len(dataset))
    return np.flatnonzero(dataset.labels == dataset.class_names.index(name))
