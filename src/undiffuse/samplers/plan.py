"""Sampling plans: the requested samples, the stages that generate them, and the loop over the stages.

A stage starts samples, advances them one step at a time, and finishes them. ``run`` below takes all samples of a batch
through all stages. A serving engine can do the same with continuous batching: it holds ``Rows``, joins new samples to
them, calls ``advance`` and removes samples that are done; the results are identical to those of ``run``.
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
from undiffuse.samplers.rows import Rows, replace_rows


@dataclass(frozen=True)
class Request:
    """A request for one sample.

    Args:
        seed: seed of all noise of the sample.
        prompt: the condition, in the form that the model's stages expect; None is unconditional.
        options: per-sample options that override those of the plan.
        image: x_0 (C, H, W) for image-to-image sampling with a ``strength`` below 1; None starts from noise.
        previous: the output of the previous stage for this sample.
    """

    seed: int
    prompt: Any = None
    options: Any = None
    image: Tensor | None = None
    previous: Tensor | None = None


class Stage(Protocol):
    """One stage of a plan, with one network.

    Attributes:
        space: space of its output.
        sampler: the sampler of its steps; None if samples are generated in one evaluation.
        gradients: whether a step needs gradients through the denoiser; the stage then enables them itself.
    """

    @property
    def space(self) -> Space: ...

    @property
    def sampler(self) -> Sampler | None: ...

    @property
    def gradients(self) -> bool: ...

    def bind(self, rows: Rows) -> Denoiser:
        """The denoiser bound to these samples, with the condition and guidance of each."""

    def start(self, requests: Sequence[Request]) -> Rows:
        """Samples at their first time."""

    def advance(self, rows: Rows) -> Rows:
        """Advance each sample by one step; none of them may be done."""

    def finish(self, rows: Rows) -> Tensor:
        """The stage's output for samples that are done, ``(B, *space.shape)``."""

    def for_next_stage(self, output: Tensor, requests: Sequence[Request]) -> list[Request]:
        """The requests for the next stage.

        Args:
            output: (B, ...) the output of this stage.
            requests: the requests of this stage, one per sample.
        """


@dataclass(frozen=True)
class Plan:
    """The sampling stages of a model for given options.

    Args:
        stages: in order; a cascade, or a prior and its decoder, have several.
        record: sampling metadata for ``samples.json``.
        note: message for the user.
    """

    stages: tuple[Stage, ...]
    record: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


class SamplerOutput(NamedTuple):
    """Samples x (B, ...) and their NFE (B,) int64; evaluations with cached features are counted in ``partial_nfe``."""

    x: Tensor
    nfe: Tensor
    partial_nfe: Tensor
    note: str = ""


def never_stop() -> bool:
    """The default ``stop`` callback: always false."""
    return False


@torch.no_grad()
def run(
    plan: Plan,
    requests: Sequence[Request],
    *,
    batch_size: int = 64,
    callback: Callable[[int, Progress], None] | None = None,
    take: Callable[[int, SamplerOutput], None] | None = None,
    stop: Callable[[], bool] = never_stop,
) -> SamplerOutput:
    """Generate the samples of all requests in batches.

    Args:
        plan: plan of the model.
        requests: one request per sample.
        batch_size: number of samples per batch; does not change the samples.
        callback: called after every step of every batch with (index of the batch's first sample, progress).
        take: called with each finished batch, (index of its first sample, samples); the samples are then not stored,
            and the returned ``x`` is empty.
        stop: called before each step; sampling stops if it returns true.
    Raises:
        UsageError: a batch size below 1.
        SamplingStoppedError: ``stop`` returned true; batches passed to ``take`` are complete.
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
        rows = _run_steps(stage, stage.start(requests), on_step, stop)
        output = stage.finish(rows)
        if on_step is not None and number == len(plan.stages) - 1 and not bool(rows.nfe.any() and rows.count.any()):
            on_step(Progress(0, 1, output, output))  # no sample had a step
        nfe, partial_nfe = nfe + rows.nfe.cpu(), partial_nfe + rows.partial_nfe.cpu()
        if number < len(plan.stages) - 1:
            requests = stage.for_next_stage(output, requests)
    return SamplerOutput(output, nfe, partial_nfe, plan.note)


def _run_steps(stage: Stage, rows: Rows, on_step: Callable[[Progress], None] | None, stop: Callable[[], bool]) -> Rows:
    """Advance all samples to the ends of their grids."""
    count = int((rows.count - rows.index).max()) if len(rows) else 0
    steps = 0
    while bool((active := ~rows.done).any()):
        if stop():
            raise SamplingStoppedError(f"sampling was stopped after {steps} of {count} steps")
        check_cancelled()
        rows = advance_subset(stage, rows, active)
        steps += 1
        if on_step is not None:
            on_step(Progress(steps - 1, max(count, steps), rows.x, rows.x_0))
    return rows


def advance_subset(stage: Stage, rows: Rows, mask: Tensor) -> Rows:
    """Advance a subset of the samples by one step.

    Args:
        stage: stage of the samples.
        rows: all samples.
        mask: (B,) bool, true for the samples to advance.
    """
    if bool(mask.all()):
        return stage.advance(rows)
    if not bool(mask.any()):
        return rows
    indices = mask.nonzero().flatten()
    return replace_rows(rows, stage.advance(rows.select(indices)), indices)


def with_previous(output: Tensor, requests: Sequence[Request]) -> list[Request]:
    """The requests with a stage's output as ``previous``, without the image and options of that stage.

    Args:
        output: (B, ...) the output of the stage.
        requests: the requests of the stage, one per sample.
    """
    return [replace(request, previous=x, image=None, options=None) for request, x in zip(requests, output, strict=True)]


def jump_back(rows: Rows, stage: Stage, denoiser: Denoiser, steps: int, stream: int) -> Rows:
    """Move samples ``steps`` steps back on their grids with noise from q(x_t | x_s): the jump of RePaint's resampling.

    Args:
        rows: the samples.
        stage: stage of the samples; its sampler restarts with an empty memory.
        denoiser: denoiser of the samples, for its process.
        steps: at least 1 and at most the number of steps that each sample has taken.
        stream: noise stream of the samples from now on, not used before by the same seeds.
    Raises:
        UsageError: a sample that has taken fewer steps.
    Source: Lugmayr et al. 2022, "RePaint", arXiv:2201.09865, algorithm 1, line 8.
    """
    if steps < 1 or bool((rows.index < steps).any()):
        raise UsageError(f"samples cannot go {steps} steps back: one of them has taken {int(rows.index.min())} steps")
    process, index = denoiser.process, rows.index - steps
    s, t = (rows.times.gather(1, position[:, None])[:, 0] for position in (rows.index, index))
    ratio = process.alpha(t) / process.alpha(s)
    deviation = (process.sigma(t) ** 2 - (ratio * process.sigma(s)) ** 2).sqrt()
    new_stream = torch.full_like(rows.stream, stream)
    noise = SeededNoise(rows.seeds, stream=new_stream.tolist()).prior(rows.x)
    x = per_row(ratio, rows.x) * rows.x + per_row(deviation, rows.x) * noise
    memory = stage.sampler.init(x) if stage.sampler is not None else ()
    return replace(rows, x=x, index=index, stream=new_stream, memory=memory)
