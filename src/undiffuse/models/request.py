"""A request for samples: seeds, options, conditions, and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from undiffuse.conditioning.prompt import Prompt
from undiffuse.core.condition import Condition
from undiffuse.errors import UsageError
from undiffuse.guidance.classifier import NoisyClassifier
from undiffuse.limits import check_at_least, check_int
from undiffuse.models.options import NO_OPTIONS, SamplingOptions
from undiffuse.samplers.base import Progress, Sampled, max_nfe
from undiffuse.samplers.plan import Request, SamplerOutput


@dataclass(frozen=True)
class SampleRequest:
    """A request for samples.

    Args:
        seeds: one seed per image; image i depends only on seeds[i].
        options: sampling options; the model's defaults are used for those that are not given.
        cond: encoded conditions, one per seed.
        batch_size: images in memory at a time; does not affect the result.
        callback: called after every step of every batch with (index of the batch's first image, progress).
        take: called with each finished batch, (index of its first image, samples); the batches are not stored, and the
            returned result is empty.
        prompts: one prompt per seed; instead of ``cond``.
        images: initial images x_0 (B, C, H, W) in [-1, 1], see ``strength``; None to start from noise.
        classifier: the loaded classifier of the option ``classifier``; None for none.
    """

    seeds: Sequence[int]
    options: SamplingOptions = NO_OPTIONS
    cond: Condition | None = None
    batch_size: int = 64
    callback: Callable[[int, Progress], None] | None = None
    take: Callable[[int, Sampled], None] | None = None
    images: Tensor | None = None
    prompts: Sequence[Prompt] | None = None
    classifier: NoisyClassifier | None = None

    def __post_init__(self) -> None:
        check_at_least("batch_size", check_int("batch_size", self.batch_size))
        if self.images is not None and "strength" not in self.options.given():
            raise UsageError(
                "an initial image needs a strength from 0 (the image) to 1 (noise), such as a strength of 0.6"
            )
        for what, given in (("images", self.images), ("prompts", self.prompts)):
            if given is not None and len(given) != len(self.seeds):
                raise UsageError(f"{len(given)} {what} for {len(self.seeds)} seeds; give one for each")
        for name, value in (self.cond or Condition()).tensors().items():
            if len(value) != len(self.seeds):
                raise UsageError(f"{len(value)} rows of {name} for {len(self.seeds)} seeds; give one for each")

    @classmethod
    def of(
        cls,
        seeds: Sequence[int],
        *,
        cond: Condition | None = None,
        batch_size: int = 64,
        callback: Callable[[int, Progress], None] | None = None,
        take: Callable[[int, Sampled], None] | None = None,
        images: Tensor | None = None,
        prompts: Sequence[Prompt] | None = None,
        **options: Any,
    ) -> SampleRequest:
        """Create a request with options as keywords, see ``SamplingOptions.of``.

        Args:
            seeds: B seeds, one per image.
            cond: encoded conditions, one per seed.
            batch_size: images in memory at a time.
            callback: called after every step of every batch with (index of the batch's first image, progress).
            take: called with each finished batch, which is not stored.
            images: initial images x_0 (B, C, H, W) in [-1, 1]; None to start from noise.
            prompts: one prompt per seed; instead of ``cond``.
            **options: options by name, such as ``steps=20``.
        Raises:
            UsageError: if an option is unknown, a value is invalid, or the numbers of prompts and seeds differ.
        Example:
            >>> SampleRequest.of(range(4), steps=20, guidance=2.0).options.given()
            {'steps': 20, 'guidance': 2.0}
        """
        return cls(seeds, SamplingOptions.of(**options), cond, batch_size, callback, take, images, prompts)

    def requests(self) -> list[Request]:
        """The requests of the sampling loop, one per seed."""
        rows = range(len(self.seeds))
        given: Sequence[Any] = self.prompts if self.prompts is not None else [None] * len(rows)
        if self.cond is not None:
            given = [self.cond.select(slice(row, row + 1)) for row in rows]
        images = [None] * len(rows) if self.images is None else list(self.images)
        return [Request(self.seeds[row], prompt=given[row], image=images[row]) for row in rows]

    @property
    def taker(self) -> Callable[[int, SamplerOutput], None] | None:
        """``take`` with the signature of the sampling loop's callback."""
        take = self.take
        return None if take is None else lambda first, output: take(first, sampled(output))


def sampled(output: SamplerOutput) -> Sampled:
    """The samples of a run, with the maximum NFE over the samples."""
    return Sampled(output.x, max_nfe(output.nfe), output.note, max_nfe(output.partial_nfe))
