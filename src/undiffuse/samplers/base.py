"""The sampler interface and a sampling loop with one time grid.

A sampler is a step function. ``step(denoiser, x, steps, memory, noise)`` moves each sample of the batch from its time t
to its time s <= t. Samples of a batch may have different grids, and samples may be added or removed between steps; no
operation mixes samples, so each result is independent of the batch. The loop below uses one grid for all samples; a
server may call the same step function with samples at different times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.limits import check_temperature
from undiffuse.errors import RunError, UsageError
from undiffuse.observer import check_cancelled
from undiffuse.samplers.noise import NoiseSource, SeededNoise

#: Per-sample tensors that a multistep method carries from step to step.
Memory: TypeAlias = tuple[Tensor, ...]


class Steps(NamedTuple):
    """One step for each sample: every entry is ``(B,)``; times are float64 and s <= t."""

    t: Tensor
    s: Tensor
    index: Tensor  # type: ignore[assignment]  # hides the methods index and count of tuple
    count: Tensor  # type: ignore[assignment]
    final: Tensor


StepFunction: TypeAlias = Callable[[Denoiser, Tensor, Steps, Memory, NoiseSource], tuple[Tensor, Memory]]


def no_memory(x: Tensor) -> Memory:
    """The empty memory of a one-step method.

    Args:
        x: (B, ...) new samples.
    """
    return ()


@dataclass(frozen=True)
class Sampler:
    """A step function and its properties.

    Attributes:
        name: key in ``SAMPLERS``.
        step: see the module's docstring; returns (x at s, memory).
        init: initial memory of new samples shaped like x.
        order: order of convergence of the sample distribution in the largest step of the log-SNR grid; 0 for a Langevin
            sampler, whose bias does not vanish with finer grids.
        max_nfe_per_step: the largest NFE of one step.
        stochastic: whether a step draws noise.
        needs_brownian: whether it draws increments of a Brownian path instead of independent noise.
        adaptive: whether the NFE of a step depends on a tolerance.
        needs_learned_variance: whether it uses the denoiser's ``variance_mix``.
        for_consistency_models: whether it treats x_0-hat as the end of x_t's ODE path, which only few-step models
            predict, and not as the posterior mean.
        source: the paper.
    """

    name: str
    step: StepFunction
    order: int
    max_nfe_per_step: int
    stochastic: bool
    source: str
    init: Callable[[Tensor], Memory] = no_memory
    needs_brownian: bool = False
    needs_learned_variance: bool = False
    adaptive: bool = False
    for_consistency_models: bool = False


class Progress(NamedTuple):
    """Argument of a callback after each step: x at time s, and x_0-hat of the step's first evaluation."""

    index: int  # type: ignore[assignment]
    count: int  # type: ignore[assignment]
    x: Tensor
    x_0: Tensor


class Sampled(NamedTuple):
    """Samples x ``(B, ...)``, the largest NFE of a sample, and a note for the user.

    ``partial_nfe`` counts evaluations that reused cached features, see ``samplers.feature_caching``; ``nfe`` all
    others.
    """

    x: Tensor
    nfe: int
    note: str = ""
    partial_nfe: int = 0


class CountingDenoiser(Denoiser):
    """Counts the NFE, ``(B,)`` or one number for all samples, and stores the first x_0-hat since ``first`` was reset.

    Args:
        denoiser: the wrapped denoiser.
        cond: the condition if ``forward`` is called without one.
    """

    def __init__(self, denoiser: Denoiser, cond: Condition | None = None) -> None:
        super().__init__()
        self.denoiser, self.cond = denoiser, cond
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range
        self.counted_rows: Tensor | None = None
        self.nfe: int | Tensor = 0
        self.partial_nfe: int | Tensor = 0
        self.first: Tensor | None = None

    def count_for(self, rows: Tensor | None) -> None:
        self.counted_rows = rows

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        denoised: Denoised = self.denoiser(x_t, t, self.cond if cond is None else cond, evaluation)
        count_noun = 1 if self.counted_rows is None else self.counted_rows.long()
        self.nfe = self.nfe + denoised.nfe * count_noun
        self.partial_nfe = self.partial_nfe + denoised.partial_nfe * count_noun
        self.first = denoised.x_0 if self.first is None else self.first
        return denoised


class FixedBatchDenoiser(Denoiser):
    """Evaluates a network in batches of one fixed, padded size.

    The output of a network depends slightly on the batch size (1e-6 in fp32, 1e-2 in bf16), but not on the position of
    a sample in a batch of fixed size; with this wrapper a sample does not depend on the number of samples drawn
    together.

    Args:
        denoiser: the wrapped denoiser.
        batch_size: size of every evaluation, at least 1; the last batch is padded by repeating a sample.
    Raises:
        UsageError: a batch size below 1.
    """

    def __init__(self, denoiser: Denoiser, batch_size: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f"a fixed batch needs at least 1 sample, got {batch_size}")
        self.denoiser, self.batch_size = denoiser, batch_size
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        count = len(x_t)
        if count == 0:
            return Denoised(x_t)
        blocks = [self._block(x_t, t, cond, evaluation, start) for start in range(0, count, self.batch_size)]
        x_0, mixes, nfe, partial_nfe, features = zip(*blocks, strict=True)
        total, partial = (_join_counts(counts, self.batch_size, count, x_t.device) for counts in (nfe, partial_nfe))
        return Denoised(torch.cat(x_0), _join_optional(mixes), total, partial, _join_optional(features))

    def _block(
        self, x_t: Tensor, t: Tensor, cond: Condition | None, evaluation: Evaluation | None, start: int
    ) -> Denoised:
        count = len(x_t)
        rows = torch.arange(start, start + self.batch_size, device=x_t.device).clamp(max=count - 1)
        size = min(self.batch_size, count - start)  # without padding
        conditions = None if cond is None else cond.select(rows)
        evaluations = None if evaluation is None else evaluation.select(rows)
        denoised: Denoised = self.denoiser(x_t[rows], t[rows], conditions, evaluations)
        mix, features = (None if part is None else part[:size] for part in (denoised.variance_mix, denoised.features))
        return denoised._replace(x_0=denoised.x_0[:size], variance_mix=mix, features=features)


def _join_counts(counts: Sequence[int | Tensor], rows: int, total: int, device: torch.device) -> int | Tensor:
    """NFE per sample from batches of ``rows``, the last one padded; a single number if it is the same for all."""
    if all(isinstance(count, int) and count == counts[0] for count in counts):
        return counts[0]
    return torch.cat([torch.as_tensor(count, device=device).expand(rows) for count in counts])[:total]


def _join_optional(parts: Sequence[Tensor | None]) -> Tensor | None:
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors) if tensors else None


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    times: Tensor,
    *,
    shape: Sequence[int],
    seeds: Sequence[int],
    cond: Condition | None = None,
    noise: NoiseSource | None = None,
    x_start: Tensor | None = None,
    temperature: float = 1.0,
    finish: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    callback: Callable[[Progress], None] | None = None,
) -> Sampled:
    """Draw one sample for each seed.

    Args:
        denoiser: x_0-hat of (x_t, t); for results independent of the batch see ``FixedBatchDenoiser``.
        sampler: from ``make_sampler``.
        times: (K + 1,) descending; see ``samplers.grids``.
        shape: shape of one sample, such as (C, H, W).
        seeds: one per sample; sample i depends on seeds[i] only.
        cond: (B, ...) fields that the samples are conditioned on; None is unconditional.
        noise: noise source; by default a function of (seed, step).
        x_start: (B, ...) at times[0], which also sets the device; by default noise from the seed times the process's
            ``start_std`` and ``temperature``.
        temperature: factor of the initial noise, at least 0; below 1 samples start closer to the mean of the prior.
        finish: let the last step return x_0-hat; otherwise x at times[-1] is returned.
        device: device of x if ``x_start`` is not given.
        dtype: dtype of x if ``x_start`` is not given; times are always float64.
        callback: called after every step.
    Returns:
        Samples of shape (B, *shape), and their NFE.
    Raises:
        UsageError: times that do not descend within [0, 1], an invalid temperature, or a temperature together with
            ``x_start``.
        RunError: samples for which an adaptive solver failed.
    Example:
        >>> from undiffuse.core.gaussian import GaussianMixture
        >>> from undiffuse.core.processes import FlowProcess
        >>> from undiffuse.samplers import make_sampler
        >>> from undiffuse.samplers.grids import time_grid
        >>> denoiser = GaussianMixture.ring(8).denoiser(FlowProcess())
        >>> times = time_grid("uniform", denoiser.process, 20)
        >>> sampled = sample(denoiser, make_sampler("heun"), times, shape=(2,), seeds=range(5))
        >>> sampled.x.shape, sampled.nfe
        (torch.Size([5, 2]), 38)
    """
    if check_temperature(temperature) != 1 and x_start is not None:
        raise UsageError(f"temperature {temperature:g} has no effect on x_start; leave it at 1 and scale x_start")
    device = x_start.device if x_start is not None else torch.device(device)
    times, cond = check_times(times).to(device), cond.to(device) if cond is not None else None
    noise = noise if noise is not None else SeededNoise(seeds)
    batch, count = len(seeds), len(times) - 1
    like = torch.empty(batch, *shape, device=device, dtype=dtype)
    x = x_start
    if x is None:
        x = temperature * denoiser.process.start_std(float(times[0])) * noise.prior(like)
    counter, memory = CountingDenoiser(denoiser, cond), sampler.init(x)
    for index in range(count):
        final = finish and index == count - 1
        steps = _same_step_for_all(times[index], times[index + 1], index, count, final, batch)
        counter.first = None
        check_cancelled()
        x, memory = sampler.step(counter, x, steps, memory, noise.at(steps.index))
        if callback is not None and counter.first is not None:
            callback(Progress(index, count, x, counter.first))
    if sampler.adaptive and not bool(torch.isfinite(x).all()):
        raise RunError(stall_message(int((~torch.isfinite(x)).flatten(1).any(1).sum()), len(x), sampler))
    return Sampled(x, max_nfe(counter.nfe), partial_nfe=max_nfe(counter.partial_nfe))


def stall_message(bad: int, count: int, sampler: Sampler) -> str:
    """The error message about samples for which an adaptive solver failed.

    Args:
        bad: number of failed samples.
        count: number of samples.
        sampler: the solver, for its name.
    """
    return (
        f"the adaptive solver got stuck in {bad} of {count} samples with sampler {sampler.name}; raise its tolerance, "
        "such as rk45:rtol=0.01, or use another sampler; if none works, the weights are bad"
    )


def max_nfe(nfe: int | Tensor) -> int:
    """The largest NFE of a sample."""
    return nfe if isinstance(nfe, int) else int(nfe.max()) if len(nfe) else 0


def check_times(times: Tensor) -> Tensor:
    """Raise UsageError if a grid has no step, leaves [0, 1] or does not descend.

    Args:
        times: (K + 1,) with K at least 1.
    Returns:
        The times in float64.
    """
    times = times.double()
    if times.ndim != 1 or len(times) < 2:
        raise UsageError(f"times must contain at least a start and an end, got shape {tuple(times.shape)}")
    if float(times[0]) > 1 or float(times[-1]) < 0 or not bool((times[1:] < times[:-1]).all()):
        raise UsageError("times must descend strictly from at most 1 to at least 0")
    return times


def _same_step_for_all(t: Tensor, s: Tensor, index: int, count: int, final: bool, batch: int) -> Steps:
    def integers(value: int) -> Tensor:
        return torch.full((batch,), value, dtype=torch.int64, device=t.device)

    return Steps(t.expand(batch), s.expand(batch), integers(index), integers(count), integers(final).bool())
