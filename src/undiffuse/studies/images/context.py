"""The context of a study of images: a trained model, its training and held-out images, and ways between them."""

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
#: Steps of a first-order stochastic sampler that is not the model's own.
_ANCESTRAL_STEPS = 100


@dataclass(frozen=True)
class ImageStudyContext:
    """A trained model of images and its data.

    Args:
        model: trained, of images.
        load_data: gives (training, held-out) images; called once, by the first study that needs them.
        seed: of everything drawn; sample i has seed + i.
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
        """The model, which denoises."""
        return denoising(self.model.module, "a study of denoising")

    @cached_property
    def denoiser(self) -> Denoiser:
        """What samples are drawn with, in fixed batches, so that no image depends on how many are drawn together."""
        return self.module.sampling_denoiser().eval()

    @cached_property
    def unguided(self) -> Denoiser:
        """The same without any guidance: the model whose ODE inverts."""
        return self.module.unguided_denoiser().eval()

    @property
    def process(self) -> Process:
        """The forward process."""
        return self.module.process

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.model.module.device

    @cached_property
    def data(self) -> tuple[Dataset, Dataset]:
        """(training, held-out) images."""
        return self.load_data()

    def real(self, count: int, split: str = "held out") -> Tensor:
        """``count`` real images, evenly spread over a split (``held out`` or ``training``), uint8 (N, C, H, W).

        Where nothing was held out, training images are taken.
        """
        train, held_out = self.data
        dataset = train if split == "training" or len(held_out) == 0 else held_out
        return dataset.fetch(evenly_spaced(len(dataset), count)).items

    def to_x(self, images: Tensor) -> Tensor:
        """uint8 images as x_0 in [-1, 1], float32 on the model's device."""
        return images.to(self.device).float() / 127.5 - 1

    def condition(self, count: int, class_name: Classes = None) -> Condition | None:
        """Labels of ``count`` samples, all classes in turn by default; ``None`` for a model without classes."""
        return self.model.condition(self.model.classes_of(class_name, count))

    def noise(self, count: int, first: int = 0) -> SeededNoise:
        """The noise of samples ``seed + first``, ``seed + first + 1``, ..."""
        return SeededNoise(self.seeds(count, first))

    def seeds(self, count: int, first: int = 0) -> range:
        """Seeds of ``count`` samples from ``seed + first`` on."""
        return range(self.seed + first, self.seed + first + count)

    def diffuse(self, x_0: Tensor, t: float, eps: Tensor) -> Tensor:
        """x_t = alpha(t) x_0 + sigma(t) eps for a batch at one time, in the type of ``x_0``."""
        times = torch.full((len(x_0),), t, dtype=torch.float64, device=x_0.device)
        alpha, sigma = per_row(self.process.alpha(times), x_0), per_row(self.process.sigma(times), x_0)
        return alpha * x_0 + sigma * eps.to(x_0)

    def times(self, num_steps: int | None = None, start: float = 1.0, grid: str | None = None) -> Tensor:
        """The model's own grid, or one of other steps, from the first of its times at or below ``start`` down to 0.

        With ``start`` inside the grid, the grid begins at ``start`` itself.
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
            sampler: the model's own by default.
            noise: of a stochastic sampler's steps, one seed per sample; equal seeds share their step noise.
            cond: one row per sample; classes in turn by default.
            denoiser: another than the one that samples are drawn with.
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
    """The class in a study's options; the class called 3 may be written without quotes.

    Args:
        class_name: of all samples; all classes in turn by default.
        no_class: samples of no class in particular.
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
    def _one_of_both(self) -> Self:
        if self.no_class and self.class_name is not None:
            raise ValueError(f"class_name={self.class_name} and no_class=true exclude each other; say one of them")
        return self


class Plan(NamedTuple):
    """A sampler's name with its options, and the steps of its whole grid."""

    sampler: str
    steps: int


def sampling_plan(
    context: ImageStudyContext, sampler: str | None, steps: int | None, *, stochastic: bool = False
) -> Plan:
    """What a study samples with: the given options, else the model's own.

    Args:
        stochastic: take ancestral sampling where the model's own sampler draws no noise.
    """
    record = context.module.sampling_record()
    own, own_steps = str(record["sampler"]), int(record["steps"])
    if sampler is None and stochastic and not make_sampler(own).stochastic:
        return Plan("ancestral", steps or max(own_steps, _ANCESTRAL_STEPS))
    chosen = make_sampler(sampler or own)
    default = own_steps if sampler in (None, own) or chosen.order > 1 else max(own_steps, _ANCESTRAL_STEPS)
    return Plan(sampler or own, steps or default)


def real_pairs(
    context: ImageStudyContext, count: int, class_name: Classes = None
) -> tuple[Tensor, Tensor, Condition | None]:
    """``count`` pairs of different real images, uint8 (N, C, H, W) each, and the condition of each pair.

    The two of a pair are of one class where the model is conditional: all classes in turn, or the given one.

    Raises:
        UsageError: an unknown class, or a set too small.
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
    """All rows for no class, or a name that is none."""
    if name is None or name not in dataset.class_names or dataset.labels is None:
        return np.arange(len(dataset))
    return np.flatnonzero(dataset.labels == dataset.class_names.index(name))
