"""A diffusion model of pictures or points: a network, a forward process, a weighted denoising loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from undiffuse.config import Component, ComponentConfig, FrozenModel, build, default_of
from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import ClippedDenoiser, Denoiser, NetworkDenoiser, TransferredDenoiser
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, FlowProcess, make_process
from undiffuse.core.random import StepRandom
from undiffuse.errors import RunError, UsageError
from undiffuse.losses.denoising import denoising_loss
from undiffuse.losses.density import TIME_DENSITIES, TimeDensity
from undiffuse.losses.density import uniform as uniform_density
from undiffuse.losses.draws import UNIFORM_DRAWS
from undiffuse.losses.hybrid import BOUND_WEIGHT, hybrid_loss, variational_loss
from undiffuse.losses.importance import ImportanceDraws
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.losses.weighting import flow as flow_weighting
from undiffuse.networks import NETWORK_CONFIGS, UNetConfig, build_network
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import Blocked, Sampled, sample
from undiffuse.samplers.grids import WIDEST_LOG_SNR, time_grid
from undiffuse.systems.base import DenoisingSystem, LossReport, SampleRequest, SystemConfig, TrainingBatch

#: Rows a network is evaluated on at a time when sampling: fixed for a kind of device, so no batch size changes a bit.
BLOCK_ROWS = {"cpu": 16, "cuda": 128}
#: The same for points, whose networks are so small that calling them is what costs.
POINT_BLOCK_ROWS = 1024
#: Levels of a picture's values, whose mass the bound's decoder takes.
PICTURE_LEVELS = 256
#: A coefficient of x_0-hat beyond this is a division by what is zero but for rounding.
_LARGEST_COEFFICIENT = 1e12


class SamplingConfig(FrozenModel):
    """How a model samples unless told otherwise.

    Args:
        sampler: ``name`` or ``name:option=value``.
        num_steps: of the time grid.
        grid: a row of ``GRIDS``.
        clip_x_0: cut each x_0-hat of a picture to [-1, 1]; points are never cut.
    """

    sampler: str = "heun"
    num_steps: Annotated[int, Field(ge=1)] = 10
    grid: str = "log_snr"
    clip_x_0: bool = True


#: Of a model with a learned variance; its paper finds 50 to 100 steps enough.
LEARNED_VARIANCE_SAMPLING = SamplingConfig(sampler="ancestral:variance=learned", num_steps=100, grid="uniform")


class DiffusionConfig(SystemConfig):
    """See the registries for the rows of each component.

    Args:
        process: a row of ``PROCESSES`` with its options.
        parameterization: what the network predicts.
        weighting: of the denoising loss over noise levels.
        objective: ``denoising``, the weighted error of x_0-hat; ``variational``, the bound itself; ``hybrid``, the
            denoising loss plus the bound, which then moves the learned variance alone (Nichol & Dhariwal 2021).
        learned_variance: the network also says the variance of the reverse step, for ``ancestral:variance=learned``,
            which such a model samples by unless told otherwise; ``hybrid`` and ``variational`` train it.
        bound_weight: of the bound in ``hybrid``, on bits a dimension.
        time_density: where in time a training step looks.
        time_draws: the uniform numbers of a micro-batch: ``independent``; ``stratified``, one in each of B equal
            strata; ``low_discrepancy``, B at equal distance with one common shift (Kingma et al. 2021). Or
            ``importance``: knots in proportion to the size of their last losses, weighted to the same mean.
        network: its architecture.
        precision: of the network's arithmetic, in training and in sampling.
        class_conditional: tell the network the class of each picture; data without classes is refused.
        label_dropout: share of the rows trained without their label, so that the model also knows none.
        sampling: defaults.
    """

    name: Literal["diffusion"] = "diffusion"
    process: Annotated[ComponentConfig, Component(PROCESSES, "process")] = default_of("flow", FlowProcess)
    parameterization: str = "flow"
    weighting: Annotated[ComponentConfig, Component(WEIGHTINGS, "weighting")] = default_of("flow", flow_weighting)
    objective: Literal["denoising", "hybrid", "variational"] = "denoising"
    learned_variance: bool = False
    bound_weight: Annotated[float, Field(gt=0)] = BOUND_WEIGHT
    time_density: Annotated[ComponentConfig, Component(TIME_DENSITIES, "time density")] = default_of(
        "uniform", uniform_density
    )
    time_draws: Literal["independent", "stratified", "low_discrepancy", "importance"] = "independent"
    network: Annotated[ComponentConfig, Component(NETWORK_CONFIGS, "network")] = UNetConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    class_conditional: bool = False
    label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="before")
    @classmethod
    def _learned_variance_samples_by_it(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("learned_variance") is True and "sampling" not in values:
            return {**values, "sampling": LEARNED_VARIANCE_SAMPLING}
        return values

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        _check_objective(self)
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        process: Process = build(PROCESSES, self.process)
        Parameterization(self.parameterization, process)
        build(WEIGHTINGS, self.weighting)
        build(TIME_DENSITIES, self.time_density)(process, torch.full((1,), 0.5))
        if make_sampler(self.sampling.sampler).needs_learned_variance and not self.learned_variance:
            raise UsageError(
                f"sampling.sampler={self.sampling.sampler!r} needs learned_variance=true; say ancestral:variance=beta"
            )
        time_grid(self.sampling.grid, process, self.sampling.num_steps)
        return self

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> DiffusionSystem:
        return DiffusionSystem(self, shape, class_names, num_augment_labels)


class DiffusionSystem(DenoisingSystem):
    """See ``DiffusionConfig``."""

    def __init__(
        self,
        config: DiffusionConfig,
        shape: tuple[int, ...],
        class_names: Sequence[str],
        num_augment_labels: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.shape = config, tuple(shape)
        self.class_names = tuple(class_names) if config.class_conditional else ()
        self.process = build(PROCESSES, config.process)
        factor = 2 if config.learned_variance else 1
        self.network = build_network(
            config.network, self.shape, len(self.class_names), factor, num_augment_labels=num_augment_labels
        )
        knots = self.process.num_steps if config.time_draws == "importance" else None
        self.importance = ImportanceDraws(knots) if knots is not None else None
        if config.class_conditional and not class_names:
            raise UsageError(
                "system.class_conditional=true, but the data has no classes; give data with classes or say "
                "system.class_conditional=false"
            )
        self._log_weight = build(WEIGHTINGS, config.weighting)
        self._density: TimeDensity = build(TIME_DENSITIES, config.time_density)
        self._parameterization = Parameterization(config.parameterization, self.process)

    def denoiser(self, precision: str | None = None) -> NetworkDenoiser:
        """The network as a denoiser, computing in the configured precision or another (``fp32``, ``bf16``)."""
        autocast = torch.bfloat16 if (precision or self.config.precision) == "bf16" else None
        return NetworkDenoiser(
            self.network, self._parameterization, self.log_snr_range, autocast, self.config.learned_variance
        )

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """(smallest, largest) log-SNR that can be asked for: what training sees, infinite where it reaches an end.

        Where the parameterization says nothing about x_0 at the noisy end (``eps`` divides by alpha = 0), it stops at
        sigma / alpha = 80.
        """
        ends = self._density(self.process, torch.tensor([1.0, 0.0], dtype=torch.float64))
        low, high = self.process.log_snr(ends).tolist()
        row = torch.stack(self._parameterization(ends[:1])[:4])
        return (low if bool((row.abs() < _LARGEST_COEFFICIENT).all()) else max(low, WIDEST_LOG_SNR[0])), high

    def forward(self, batch: TrainingBatch, phase: str, rng: StepRandom) -> LossReport:
        x_0 = batch.x_0
        t, weight = self._times(len(x_0), rng)
        cond = self._drop_labels(batch.condition, len(x_0), rng)
        eps = rng.normal(x_0, "eps")
        with rng.layers():
            rows = self._objective(x_0, eps, t, cond)
        if weight is not None and self.importance is not None:
            self.importance.record(t, rows)
            rows = rows * weight.to(rows.dtype)
        return LossReport(rows.mean(), rows.detach(), t)

    def _objective(self, x_0: Tensor, eps: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """Losses of the rows, ``(B,)``."""
        denoiser, levels = self.denoiser(), PICTURE_LEVELS if len(self.shape) == 3 else None
        if self.config.objective == "variational":
            return variational_loss(denoiser, x_0, eps, t, cond, levels)
        if self.config.objective == "hybrid":
            return hybrid_loss(denoiser, x_0, eps, t, self._log_weight, cond, levels, self.config.bound_weight)
        return denoising_loss(denoiser, x_0, eps, t, self._log_weight, cond)

    def _times(self, count: int, rng: StepRandom) -> tuple[Tensor, Tensor | None]:
        """Times ``(B,)`` and, of importance draws, their weights.

        Only training draws by importance: a validation loss must not depend on the history, nor change it.
        """
        u = rng.uniform(count, "time")
        if self.importance is None:
            return self._density(self.process, UNIFORM_DRAWS[self.config.time_draws](u)), None
        return self.importance.draw(u) if self.training else (self._density(self.process, u), None)

    def _drop_labels(self, cond: Condition, count: int, rng: StepRandom) -> Condition:
        told = Condition(augment_label=cond.augment_label)  # never dropped: zeros would say "as it is"
        if not self.class_names or cond.class_label is None:
            return told
        dropped = Condition(class_label=cond.class_label).drop(rng.uniform(count, "drop") < self.config.label_dropout)
        return replace(told, class_label=dropped.class_label)

    def sample(self, request: SampleRequest) -> Sampled:
        sampling, seeds = self.config.sampling, list(request.seeds)
        sampler = make_sampler(request.sampler if request.sampler is not None else sampling.sampler)
        grid = request.grid if request.grid is not None else sampling.grid
        num_steps = request.num_steps if request.num_steps is not None else sampling.num_steps
        if sampler.needs_learned_variance and not self.config.learned_variance:
            raise UsageError(f"sampler {request.sampler!r} needs a learned variance, which this model lacks")
        denoiser, note = self.sampling_denoiser(), ""
        if request.process is not None:
            denoiser, note = transferred(denoiser, request.process)
        times = time_grid(grid, denoiser.process, num_steps, denoiser.log_snr_range)
        if request.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {request.batch_size}")
        was_training = self.training
        self.eval()
        try:
            parts = [
                sample(
                    denoiser,
                    sampler,
                    times,
                    shape=self.shape,
                    seeds=seeds[start : start + request.batch_size],
                    cond=_rows_of(request.cond, start, request.batch_size),
                    device=self.device,
                    callback=None if request.callback is None else partial(request.callback, start),
                )
                for start in range(0, len(seeds), request.batch_size)
            ]
        finally:
            self.train(was_training)
        if not parts:
            return Sampled(torch.empty(0, *self.shape), 0, note)
        x = torch.cat([part.x for part in parts])
        self._check_finite(x, f"{sampler.name}, {num_steps} steps on the grid {grid!r}")
        return Sampled(x, max(part.nfe for part in parts), note)

    @staticmethod
    def _check_finite(x: Tensor, how: str) -> None:
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        if bad:
            raise RunError(
                f"{bad} of {len(x)} samples are not finite with sampler {how}; take more steps, another grid or "
                "sampler, or system.precision=fp32; if none helps, the weights are no good"
            )

    def sampling_facts(self) -> dict[str, Any]:
        sampling = self.config.sampling
        return {
            "sampler": sampling.sampler,
            "steps": sampling.num_steps,
            "grid": sampling.grid,
            "process": self.config.process.name,
        }

    def sampling_denoiser(self) -> Denoiser:
        pictures = len(self.shape) == 3
        rows = BLOCK_ROWS.get(self.device.type, 16) if pictures else POINT_BLOCK_ROWS
        blocked = Blocked(self.denoiser(), rows)
        clips = self.config.sampling.clip_x_0 and pictures
        return ClippedDenoiser(blocked) if clips else blocked

    def compile_networks(self) -> None:
        self.network.compile()


def _check_objective(config: DiffusionConfig) -> None:
    """Refuse objectives, variances and draws that do not go together."""
    objective, process = config.objective, build(PROCESSES, config.process)
    if config.learned_variance and objective == "denoising":
        raise UsageError(
            "learned_variance=true with objective='denoising', which trains no variance; say objective=hybrid or "
            "objective=variational"
        )
    if objective != "denoising" and not config.learned_variance:
        raise UsageError(
            f"objective={objective!r} trains a learned variance; say learned_variance=true, or for a fixed one "
            "objective=denoising with weighting=variational"
        )
    what = f"objective={objective!r}" if objective != "denoising" else "time_draws='importance'"
    if objective == "denoising" and config.time_draws != "importance":
        return
    if (process.num_steps or 0) < 2 or config.time_density.name != "knots":
        raise UsageError(
            f"{what} needs a process with num_steps of at least 2, such as ddpm_cosine, and time_density=knots; got "
            f"process={config.process.name} and time_density={config.time_density.name}"
        )


def transferred(denoiser: Denoiser, spec: str) -> tuple[Denoiser, str]:
    """``denoiser`` under another process, and a line on where sampling starts if that is not at its prior.

    Args:
        spec: a row of ``PROCESSES`` with options, such as ``ve:sigma_max=80``.
    """
    process = make_process(spec)
    prior, (lowest, _) = float(process.log_snr(torch.ones(1))), denoiser.log_snr_range
    starts_late = f"{spec} begins at log-SNR {prior:.2f}, the model was trained down to {lowest:.2f}: starts there"
    return TransferredDenoiser(denoiser, process), starts_late if prior < lowest else ""


def _rows_of(cond: Condition | None, start: int, count: int) -> Condition | None:
    return None if cond is None else cond.select(slice(start, start + count))
