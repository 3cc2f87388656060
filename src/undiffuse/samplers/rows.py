"""The samples of a batch on their way from noise, each on its own grid, with its own guidance and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.per_sample import PerRow, PerSample
from undiffuse.samplers.base import CountingDenoiser, Memory, Sampler, Steps, check_times
from undiffuse.samplers.noise import SeededNoise


@dataclass(frozen=True)
class Rows(PerSample):
    """The state of each sample of a batch.

    Args:
        x: (B, ...) at ``times[index]``.
        times: (B, K + 1) float64, descending; of a sample with fewer than K steps NaN behind its end.
        count: (B,) int64, the steps of its grid.
        index: (B,) int64, the step that comes next; ``count`` where it has arrived.
        memory: what its sampler carries from step to step.
        seeds: of its noise.
        stream: (B,) int64 of its noise, see ``SeededNoise``.
        requests: one per sample, as the stage was given them.
        nfe: (B,) int64, NFE so far; ``partial_nfe`` evaluations that took cached features.
        condition: what the network is conditioned on; empty for an unconditional one.
        guidance: of each kind, by name, as the stage binds it.
        extra: further per-sample values of a stage.
        x_0: (B, ...) the first prediction of the last step; x itself before any.
    """

    x: Tensor
    times: Tensor
    count: Tensor
    index: Tensor
    memory: Memory
    seeds: PerRow[int]
    stream: Tensor
    requests: PerRow[Any]
    nfe: Tensor
    partial_nfe: Tensor
    x_0: Tensor
    condition: Condition = field(default_factory=Condition)
    guidance: Mapping[str, PerSample] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.seeds)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Their samples, one part after the other; grids may differ in length."""
        longest = max((part.times.shape[1] for part in parts), default=0)
        return super().join([replace(part, times=_padded(part.times, longest)) for part in parts])

    @property
    def arrived(self) -> Tensor:
        """(B,) whether a sample has no step left."""
        return self.index >= self.count

    @property
    def failed(self) -> Tensor:
        """(B,) whether a sample is not finite: an engine can drop it and continue, ``finish`` refuses it."""
        return (~torch.isfinite(self.x)).flatten(1).any(1)

    @property
    def device(self) -> torch.device:
        """Of x."""
        return self.x.device


def _padded(times: Tensor, length: int) -> Tensor:
    return F.pad(times, (0, length - times.shape[1]), value=torch.nan)


def begin(
    x: Tensor,
    grids: Sequence[Tensor],
    sampler: Sampler | None,
    seeds: Sequence[int],
    *,
    stream: int = 0,
    requests: Sequence[Any] = (),
    index: Sequence[int] | None = None,
    condition: Condition | None = None,
    guidance: Mapping[str, PerSample] | None = None,
) -> Rows:
    """Samples at the beginning of their grids.

    Args:
        x: (B, ...), at each sample's first time.
        grids: descending times (K + 1,) per sample; see ``samplers.grids``. A single time is a sample that has arrived.
        sampler: that will move them; None for samples that have arrived.
        seeds: one per sample.
        stream: of the noise of all.
        requests: one per sample; by default None each.
        index: the step of its grid that a sample begins with; 0 by default.
        condition: of the samples; None is unconditional.
        guidance: of each kind, by name.
    Raises:
        UsageError: times that do not descend within [0, 1].
    """
    grids = [check_times(grid) if len(grid) != 1 else grid.double() for grid in grids]
    longest = max((len(grid) for grid in grids), default=1)
    times = torch.full((len(x), longest), torch.nan, dtype=torch.float64)
    for row, grid in enumerate(grids):
        times[row, : len(grid)] = grid
    count = torch.tensor([len(grid) - 1 for grid in grids], dtype=torch.int64)
    started = torch.zeros_like(count) if index is None else torch.tensor(index, dtype=torch.int64)
    zeros, device = torch.zeros_like(count), x.device
    return Rows(
        x=x,
        times=times.to(device),
        count=count.to(device),
        index=started.to(device),
        memory=sampler.init(x) if sampler is not None else (),
        seeds=PerRow(seeds),
        stream=zeros + stream,
        requests=PerRow(requests or [None] * len(x)),
        nfe=zeros.to(device),
        partial_nfe=zeros.to(device),
        x_0=x,
        condition=condition if condition is not None else Condition(),
        guidance=guidance or {},
    )


def step_of(rows: Rows, finish: bool = True) -> Steps:
    """The step that each sample takes next.

    Args:
        rows: the samples, none of which has arrived.
        finish: let a sample's last step return x_0-hat.
    """
    index = rows.index[:, None]
    t, s = (rows.times.gather(1, place)[:, 0] for place in (index, index + 1))
    return Steps(t, s, rows.index, rows.count, (rows.index == rows.count - 1) & finish)


def advance(denoiser: Denoiser, sampler: Sampler, rows: Rows, *, finish: bool = True) -> Rows:
    """Every sample one step on; none may have arrived.

    Args:
        denoiser: bound to these samples, their conditions and guidance.
        sampler: whose step is taken.
        rows: the samples.
        finish: let a sample's last step return x_0-hat.
    """
    watch = CountingDenoiser(denoiser)
    noise = SeededNoise(rows.seeds, rows.index.tolist(), rows.stream.tolist())
    x, memory = sampler.step(watch, rows.x, step_of(rows, finish), rows.memory, noise)
    return replace(
        rows,
        x=x,
        memory=memory,
        index=rows.index + 1,
        nfe=rows.nfe + watch.nfe,
        partial_nfe=rows.partial_nfe + watch.partial_nfe,
        x_0=watch.first if watch.first is not None else x,
    )


def put_back(rows: Rows, moved: Rows, which: Tensor) -> Rows:
    """All samples, with some of them replaced.

    Args:
        rows: all samples.
        moved: the new state of some.
        which: (N,) int64 indices of these in ``rows``.
    """
    order = torch.arange(len(rows))
    order[which.cpu()] = len(rows) + torch.arange(len(moved))
    return Rows.join([rows, moved]).select(order)
