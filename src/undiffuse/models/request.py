"""A request for samples: seeds, options, conditions, and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from undiffuse.conditioning.prompt import Prompt
from undiffuse.core.condition import Condition
from undiffuse.errors import UsageError
from undiffuse.limits import check_at_least, check_int
from undiffuse.models.options import NO_OPTIONS, SamplingOptions
from undiffuse.samplers.base import Progress, Sampled, max_nfe
from undiffuse.samplers.plan import Request, SamplerOutput


@dataclass(frozen=True)
class SampleRequest:
    """What to sample.

    Args:
        seeds: one an image; image i depends on seeds[i] alone.
        options: how; the model's defaults take the place of those that are not given.
        cond: one condition a seed, where it is at hand.
        batch_size: images in memory at a time; changes no bit of any image.
        callback: sees every step of every batch: (number of the batch's first image, progress).
        take: is given each batch when it is done, (number of its first image, samples), which are then kept no
            longer: what is returned holds none.
        prompts: what is wanted, one a seed, in words; instead of ``cond``.
        images: x_0 (B, C, H, W) in [-1, 1] to begin from, see ``strength``; None for noise alone.
    """

    seeds: Sequence[int]
    options: SamplingOptions = NO_OPTIONS
    cond: Condition | None = None
    batch_size: int = 64
    callback: Callable[[int, Progress], None] | None = None
    take: Callable[[int, Sampled], None] | None = None
    images: Tensor | None = None
    prompts: Sequence[Prompt] | None = None

    def __post_init__(self) -> None:
        check_at_least("batch_size", check_int("batch_size", self.batch_size))
        if self.images is not None and "strength" not in self.options.given():
            raise UsageError(
                "an image to begin from needs a strength, from 0, that image, to 1, noise alone; such as 0.6"
            )
        for what, given in (("images", self.images), ("prompts", self.prompts)):
            if given is not None and len(given) != len(self.seeds):
                raise UsageError(f"{len(given)} {what} for {len(self.seeds)} seeds; give one with each")
        for name, value in (self.cond or Condition()).tensors().items():
            if len(value) != len(self.seeds):
                raise UsageError(f"{len(value)} rows of {name} for {len(self.seeds)} seeds; give one with each")

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
        """A request whose options are keywords, by the names they are given with; see ``SamplingOptions.of``.

        Args:
            seeds: one an image, B of them.
            cond: one condition a seed, where it is at hand.
            batch_size: images in memory at a time.
            callback: sees every step of every batch: (number of the batch's first image, progress).
            take: is given each batch when it is done, which is then kept no longer.
            images: x_0 (B, C, H, W) in [-1, 1] to begin from; None for noise alone.
            prompts: one a seed, in words; instead of ``cond``.
            **options: each by its name, such as ``steps=20``.
        Raises:
            UsageError: an option that there is not, a value that it cannot have, or other numbers of prompts than
                seeds.
        Example:
            >>> SampleRequest.of(range(4), steps=20, guidance=2.0).options.given()
            {'steps': 20, 'guidance': 2.0}
        """
        return cls(seeds, SamplingOptions.of(**options), cond, batch_size, callback, take, images, prompts)

    def requests(self) -> list[Request]:
        """One for each seed."""
        rows = range(len(self.seeds))
        given: Sequence[Any] = self.prompts if self.prompts is not None else [None] * len(rows)
        if self.cond is not None:
            given = [self.cond.select(slice(row, row + 1)) for row in rows]
        images = [None] * len(rows) if self.images is None else list(self.images)
        return [Request(self.seeds[row], prompt=given[row], image=images[row]) for row in rows]

    @property
    def taker(self) -> Callable[[int, SamplerOutput], None] | None:
        """``take`` as the loop calls it."""
        take = self.take
        return None if take is None else lambda first, made: take(first, sampled(made))


def sampled(made: SamplerOutput) -> Sampled:
    """Samples of a run with the NFE of the sample that took most."""
    return Sampled(made.x, max_nfe(made.nfe), made.note, max_nfe(made.partial_nfe))
