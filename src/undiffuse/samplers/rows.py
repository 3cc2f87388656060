"""The sampling state of a batch, each sample with its own time grid, guidance and noise."""

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
        times: (B, K + 1) float64, descending; padded with NaN for samples with fewer than K steps.
        count: (B,) int64, number of steps of the sample's grid.
        index: (B,) int64, index of the next step; ``count`` if the sample is done.
        memory: sampler memory carried from step to step.
        seeds: seeds of the noise.
        stream: (B,) int64, noise stream, see ``SeededNoise``.
        requests: one per sample, as passed to the stage.
        nfe: (B,) int64, NFE so far.
        partial_nfe: (B,) int64, evaluations with cached features so far.
        condition: the network's condition; empty for an unconditional network.
        guidance: per-sample guidance by name, as the stage uses it.
        extra: further per-sample values of a stage.
        x_0: (B, ...) the first prediction of the last step; x before the first step.
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
        """Concatenate the samples of several parts; grids may differ in length."""
        longest = max((part.times.shape[1] for part in parts), default=0)
        return super().join([replace(part, times=_padded(part.times, longest)) for part in parts])

    @property
    def done(self) -> Tensor:
        """(B,) whether a sample has no steps left."""
        return self.index >= self.count

    @property
    def failed(self) -> Tensor:
        """(B,) whether a sample is not finite: a server can drop it and continue, ``finish`` raises an error."""
        return (~torch.isfinite(self.x)).flatten(1).any(1)

    @property
    def device(self) -> torch.device:
        """Device of x."""
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
    """The initial state of samples at the start of their grids.

    Args:
        x: (B, ...), at each sample's first time.
        grids: descending times (K + 1,) per sample; see ``samplers.grids``. A sample with a single time is done.
        sampler: the sampler of the steps; None for samples that are done.
        seeds: one per sample.
        stream: noise stream of all samples.
        requests: one per sample; None by default.
        index: index of each sample's first step; 0 by default.
        condition: condition of the samples; None is unconditional.
        guidance: per-sample guidance by name.
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
    """The next step of each sample.

    Args:
        rows: the samples, none of which is done.
        finish: let a sample's last step return x_0-hat.
    """
    index = rows.index[:, None]
    t, s = (rows.times.gather(1, position)[:, 0] for position in (index, index + 1))
    return Steps(t, s, rows.index, rows.count, (rows.index == rows.count - 1) & finish)


def advance(denoiser: Denoiser, sampler: Sampler, rows: Rows, *, finish: bool = True) -> Rows:
    """Advance every sample by one step; none may be done.

    Args:
        denoiser: bound to these samples, their conditions and guidance.
        sampler: the sampler of the step.
        rows: the samples.
        finish: let a sample's last step return x_0-hat.
    """
    counter = CountingDenoiser(denoiser)
    noise = SeededNoise(rows.seeds, rows.index.tolist(), rows.stream.tolist())
    x, memory = sampler.step(counter, rows.x, step_of(rows, finish), rows.memory, noise)
    return replace(
        rows,
        x=x,
        memory=memory,
        index=rows.index + 1,
        nfe=rows.nfe + counter.nfe,
        partial_nfe=rows.partial_nfe + counter.partial_nfe,
        x_0=counter.first if counter.first is not None else x,
    )


def replace_rows(rows: Rows, new: Rows, indices: Tensor) -> Rows:
    """All samples, with a subset replaced.

    Args:
        rows: all samples.
        new: the new state of the subset.
        indices: (N,) int64 indices of the subset in ``rows``.
    """
    order = torch.arange(len(rows))
    order[indices.cpu()] = len(rows) + torch.arange(len(new))
    return Rows.join([rows, new]).select(order)
