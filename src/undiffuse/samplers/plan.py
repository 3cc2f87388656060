"""A sampling run as a value: the requested samples, the stages that draw them, and the loop through these.

A stage starts samples, moves each of them one step at a time, and finishes them; what it does between is its own
affair. ``run`` below takes all samples of a batch through all stages. A serving engine does the same with samples that
come and go: it holds ``Rows``, joins new ones to them, calls ``advance`` and takes out those that have arrived; every
sample gets exactly what it gets in ``run``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.core.rows import per_row
from undiffuse.core.space import Space
from undiffuse.errors import SamplingStoppedError, UsageError
from undiffuse.observer import check_cancelled
from undiffuse.samplers.base import Progress, Sampler
from undiffuse.samplers.noise import SeededNoise
from undiffuse.samplers.rows import Rows, put_back


@dataclass(frozen=True)
class Request:
    """A request for one sample.

    Args:
        seed: of all its noise.
        prompt: what it is conditioned on, as the model's stages understand it; None is unconditional.
        options: where they differ from the plan's, of those options that may differ within one plan.
        image: x_0 (C, H, W) that it begins from instead of noise alone, as far as a ``strength`` below 1 leaves it.
        previous: the output of the stage before for this sample.
    """

    seed: int
    prompt: Any = None
    options: Any = None
    image: Tensor | None = None
    previous: Tensor | None = None


class Stage(Protocol):
    """One network's part of the way.

    Attributes:
        space: of its output.
        sampler: that moves its samples; None where it makes them in one evaluation.
        gradients: whether a step needs gradients through the denoiser, which it then enables itself.
    """

    @property
    def space(self) -> Space: ...

    @property
    def sampler(self) -> Sampler | None: ...

    @property
    def gradients(self) -> bool: ...

    def bind(self, rows: Rows) -> Denoiser:
        """The denoiser of these samples, with the condition and guidance of each."""

    def start(self, requests: Sequence[Request]) -> Rows:
        """Samples at their first time."""

    def advance(self, rows: Rows) -> Rows:
        """Each sample one step on; none of them may have arrived."""

    def finish(self, rows: Rows) -> Tensor:
        """The stage's output for samples that have arrived, ``(B, *space.shape)``."""

    def for_next_stage(self, made: Tensor, requests: Sequence[Request]) -> list[Request]:
        """The same requests for the next stage.

        Args:
            made: (B, ...) the output of this stage.
            requests: that it answered, one per sample.
        """


@dataclass(frozen=True)
class Plan:
    """What a model does for some options.

    Args:
        stages: one after the other; a cascade, or a prior and its decoder, have several.
        record: how samples are made, as ``samples.json`` states it.
        note: for the user.
    """

    stages: tuple[Stage, ...]
    record: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


class SamplerOutput(NamedTuple):
    """Samples x (B, ...) and the NFE of each (B,) int64; evaluations that took cached features are counted apart."""

    x: Tensor
    nfe: Tensor
    partial_nfe: Tensor
    note: str = ""


def never() -> bool:
    """The default ``stop``: always false."""
    return False


@torch.no_grad()
def run(
    plan: Plan,
    requests: Sequence[Request],
    *,
    batch_size: int = 64,
    callback: Callable[[int, Progress], None] | None = None,
    take: Callable[[int, SamplerOutput], None] | None = None,
    stop: Callable[[], bool] = never,
) -> SamplerOutput:
    """Samples of all requests, ``batch_size`` at a time.

    Args:
        plan: of the model.
        requests: one request per sample.
        batch_size: samples in memory at a time; changes no bit of any.
        callback: called after every step of every batch: (number of the batch's first sample, progress).
        take: called with each finished batch, (number of its first sample, samples), which is then not kept: the
            returned ``x`` holds no samples.
        stop: called before each step; a run ends where it returns true.
    Raises:
        UsageError: a batch without a sample.
        SamplingStoppedError: ``stop`` returned true; batches that ``take`` was given are whole.
        CancelledError: the work of this thread was cancelled.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, got {batch_size}")
    parts = []
    for first in range(0, len(requests), batch_size):
        on_step = None if callback is None else _counting_from(first, callback)
        part = _run_batch(plan, requests[first : first + batch_size], on_step, stop)
        if take is not None:
            take(first, part)
            part = part._replace(x=part.x.new_empty(0, *part.x.shape[1:]))
        parts.append(part)
    if not parts:
        none = torch.zeros(0, dtype=torch.int64)
        return SamplerOutput(torch.empty(0, *plan.stages[-1].space.shape), none, none, plan.note)
    costs = (torch.cat([part.nfe for part in parts]), torch.cat([part.partial_nfe for part in parts]))
    return SamplerOutput(torch.cat([part.x for part in parts]), *costs, plan.note)


def _counting_from(first: int, callback: Callable[[int, Progress], None]) -> Callable[[Progress], None]:
    return lambda progress: callback(first, progress)


def _run_batch(
    plan: Plan, requests: Sequence[Request], on_step: Callable[[Progress], None] | None, stop: Callable[[], bool]
) -> SamplerOutput:
    nfe = partial_nfe = torch.zeros(len(requests), dtype=torch.int64)
    for number, stage in enumerate(plan.stages):
        rows = _arrived(stage, stage.start(requests), on_step, stop)
        made = stage.finish(rows)
        if on_step is not None and number == len(plan.stages) - 1 and not bool(rows.nfe.any() and rows.count.any()):
            on_step(Progress(0, 1, made, made))  # no sample had a step to take
        nfe, partial_nfe = nfe + rows.nfe.cpu(), partial_nfe + rows.partial_nfe.cpu()
        if number < len(plan.stages) - 1:
            requests = stage.for_next_stage(made, requests)
    return SamplerOutput(made, nfe, partial_nfe, plan.note)


def _arrived(stage: Stage, rows: Rows, on_step: Callable[[Progress], None] | None, stop: Callable[[], bool]) -> Rows:
    """``rows`` at the end of their grids."""
    count = int((rows.count - rows.index).max()) if len(rows) else 0
    done = 0
    while bool((moving := ~rows.arrived).any()):
        if stop():
            raise SamplingStoppedError(f"sampling was stopped after {done} of {count} steps")
        check_cancelled()
        rows = advance_some(stage, rows, moving)
        done += 1
        if on_step is not None:
            on_step(Progress(done - 1, max(count, done), rows.x, rows.x_0))
    return rows


def advance_some(stage: Stage, rows: Rows, moving: Tensor) -> Rows:
    """Move some of the samples one step on.

    Args:
        stage: that moves them.
        rows: all samples.
        moving: (B,) bool, true for those that move.
    """
    if bool(moving.all()):
        return stage.advance(rows)
    if not bool(moving.any()):
        return rows
    which = moving.nonzero().flatten()
    return put_back(rows, stage.advance(rows.select(which)), which)


def with_previous(made: Tensor, requests: Sequence[Request]) -> list[Request]:
    """The requests with a stage's output, and without what was that stage's own: its image and its options.

    Args:
        made: (B, ...) the output of the stage.
        requests: that it answered, one per sample.
    """
    return [
        replace(request, previous=one, image=None, options=None) for request, one in zip(requests, made, strict=True)
    ]


def jump_back(rows: Rows, stage: Stage, denoiser: Denoiser, steps: int, stream: int) -> Rows:
    """Samples some steps back on their grids, noised anew by q(x_t | x_s): a jump of RePaint's resampling.

    Args:
        rows: the samples.
        stage: whose sampler starts with a new memory.
        denoiser: of the samples, for its process.
        steps: at least 1, at most what lies before each sample on its grid.
        stream: of the noise from here on, one that the seeds have not used yet.
    Raises:
        UsageError: a sample with fewer steps before it.
    Source: Lugmayr et al. 2022, "RePaint", arXiv:2201.09865, algorithm 1, line 8.
    """
    if steps < 1 or bool((rows.index < steps).any()):
        raise UsageError(f"samples cannot go {steps} steps back, {int(rows.index.min())} lie before one of them")
    process, index = denoiser.process, rows.index - steps
    s, t = (rows.times.gather(1, place[:, None])[:, 0] for place in (rows.index, index))
    ratio = process.alpha(t) / process.alpha(s)
    deviation = (process.sigma(t) ** 2 - (ratio * process.sigma(s)) ** 2).sqrt()
    fresh = torch.full_like(rows.stream, stream)
    noise = SeededNoise(rows.seeds, stream=fresh.tolist()).prior(rows.x)
    x = per_row(ratio, rows.x) * rows.x + per_row(deviation, rows.x) * noise
    memory = stage.sampler.init(x) if stage.sampler is not None else ()
    return replace(rows, x=x, index=index, stream=fresh, memory=memory)
