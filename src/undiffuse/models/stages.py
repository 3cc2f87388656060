"""The stages that our models sample in: one network on its way from noise to data, or a generator's one go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undiffuse.conditioning.base import Conditioner
from undiffuse.conditioning.prompt import Prompt
from undiffuse.core.condition import DROP, Condition, DropPolicy
from undiffuse.core.denoiser import ClippedDenoiser, Denoiser, TransferredDenoiser
from undiffuse.core.per_sample import PerSample
from undiffuse.core.process import Process
from undiffuse.core.rows import per_row
from undiffuse.core.space import Space
from undiffuse.errors import RunError, UsageError
from undiffuse.guidance.autoguidance import AutoguidanceWeights, Autoguided
from undiffuse.guidance.guided import ConditionedDenoiser, Guidance, Guided, guidance_of
from undiffuse.models.options import GuidanceWeight, SamplingOptions
from undiffuse.samplers.base import Sampler, stall_message
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.noise import SeededNoise
from undiffuse.samplers.plan import Request, with_previous
from undiffuse.samplers.rows import Rows, advance, begin
from undiffuse.wording import counted

#: Names of a stage's two kinds of guidance, by which ``Rows`` hold them.
CLASSIFIER_FREE, AUTO = "classifier_free", "auto"
#: Options that all samples of a plan share, for the sampler and the denoiser depend on them.
SHARED_OPTIONS = ("sampler", "process", "cache_interval")


@dataclass(frozen=True)
class DenoisingStage:
    """One denoising network; see ``samplers.plan.Stage``.

    Args:
        space: of what it makes.
        sampler: that moves its rows.
        network: on fixed batches, or in whatever else batches its evaluations.
        options: of all rows, unless a request says otherwise.
        guide: the worse model of autoguidance, batched likewise; None where there is none.
        process: that rows move under; None for the network's own.
        clips: clip each x_0-hat to the range of the space.
        conditioner: of prompts; None where requests bring their conditions, or none.
        check: refuses options that the model cannot serve.
        device: of the network.
        stream: of the noise, the number of the stage.
    """

    space: Space
    sampler: Sampler
    network: Denoiser
    options: SamplingOptions
    guide: Denoiser | None = None
    process: Process | None = None
    clips: bool = False
    conditioner: Conditioner | None = None
    check: Callable[[SamplingOptions], None] = lambda options: None
    device: torch.device | str = "cpu"
    stream: int = 0
    gradients: bool = False

    def bind(self, rows: Rows) -> Denoiser:
        """The network, conditioned and guided per sample, its x_0-hat clipped, under the stage's process.

        Args:
            rows: with their conditions and guidance.
        """
        denoiser, auto, free = self.network, rows.guidance.get(AUTO), rows.guidance.get(CLASSIFIER_FREE)
        if isinstance(auto, AutoguidanceWeights) and self.guide is not None and auto.active:
            assert auto.weight is not None and auto.low is not None and auto.high is not None
            denoiser = Autoguided(denoiser, self.guide, auto.weight, (auto.low, auto.high))
        if isinstance(free, Guidance):
            denoiser = Guided(denoiser, free)
        elif not rows.condition.empty:
            denoiser = ConditionedDenoiser(denoiser, rows.condition)
        return self._under(denoiser)

    def _under(self, denoiser: Denoiser) -> Denoiser:
        if self.clips and self.space.value_range is not None:
            denoiser = ClippedDenoiser(denoiser, *self.space.value_range)  # what guidance has pushed beyond, too
        return denoiser if self.process is None else TransferredDenoiser(denoiser, self.process)

    def start(self, requests: Sequence[Request]) -> Rows:
        """Rows at the first times of their grids: noise, or an image with as much of it as its strength says.

        Raises:
            UsageError: options that the model or the plan cannot serve.
        """
        wanted = [self._wanted(request) for request in requests]
        grids, moving = self._grids(wanted), self._under(self.network)
        index = [
            len(grid) - 1 - _steps_taken(request, options)
            for request, grid, options in zip(requests, grids, wanted, strict=True)
        ]
        condition, negative = (one.to(self.device) for one in conditions_of(requests, self.conditioner))
        return begin(
            self._begun(requests, wanted, grids, index, moving.process),
            grids,
            self.sampler,
            [request.seed for request in requests],
            stream=self.stream,
            requests=requests,
            index=index,
            condition=condition,
            guidance=self._guidance(wanted, condition, negative),
        )

    def advance(self, rows: Rows) -> Rows:
        """Each row one step of the sampler on."""
        return advance(self.bind(rows), self.sampler, rows)

    def finish(self, rows: Rows) -> Tensor:
        """x of each row.

        Raises:
            RunError: some are not finite.
        """
        bad = rows.failed.nonzero().flatten().tolist()
        if bad and self.sampler.adaptive:
            raise RunError(stall_message(len(bad), len(rows), self.sampler))
        if bad:
            options = self._wanted(rows.requests[bad[0]])
            heat = f" at temperature {options.temperature:g}" if options.temperature != 1 else ""
            raise RunError(
                f"{len(bad)} of {len(rows)} samples are not finite with sampler {self.sampler.name}, "
                f"{counted(options.num_steps, 'step')} on the grid {options.grid!r}{heat}; take more steps, another "
                "grid or sampler; if none helps, the weights are no good"
            )
        return rows.x

    def for_next_stage(self, output: Tensor, requests: Sequence[Request]) -> list[Request]:
        """The requests for the next stage, with the output of this stage.

        Args:
            output: samples (B, *space.shape).
            requests: one per sample.
        """
        return with_previous(output, requests)

    def _wanted(self, request: Request) -> SamplingOptions:
        if request.options is None:
            return self.options
        for name, value in request.options.given().items():
            if name in SHARED_OPTIONS and value != getattr(self.options, name):
                raise UsageError(f"all samples of a plan have the same {name}; make another plan for {value!r}")
        wanted: SamplingOptions = request.options.over(self.options)
        self.check(wanted)
        return wanted

    def _grids(self, wanted: Sequence[SamplingOptions]) -> list[Tensor]:
        moving, made = self._under(self.network), dict[tuple[str, int], Tensor]()
        for key in {(options.grid, options.num_steps) for options in wanted}:
            made[key] = time_grid(key[0], moving.process, key[1], moving.log_snr_range)
        return [made[options.grid, options.num_steps] for options in wanted]

    def _begun(
        self,
        requests: Sequence[Request],
        wanted: Sequence[SamplingOptions],
        grids: Sequence[Tensor],
        index: Sequence[int],
        process: Process,
    ) -> Tensor:
        """alpha x_0 + sigma eps of samples that begin from an image, ``start_std`` eps of the others."""
        like = torch.empty(len(requests), *self.space.shape, device=self.device)
        noise = SeededNoise([request.seed for request in requests], stream=self.stream).prior(like)
        spread, keep, images = [], [], torch.zeros_like(like)
        for row, (request, options, grid, first) in enumerate(zip(requests, wanted, grids, index, strict=True)):
            time, begins = float(grid[first]), request.image is not None and options.strength < 1
            alone = begins and first == options.num_steps  # the image itself, whatever noise the process ends with
            sigma = 0.0 if alone else _at(process.sigma, time) if begins else process.start_std(time)
            spread.append(options.temperature * sigma)
            keep.append(1.0 if alone else _at(process.alpha, time) if begins else 0.0)
            if begins and request.image is not None:
                images[row] = self._image(request.image)
        x = per_row(torch.tensor(spread, dtype=torch.float64), like) * noise
        if not any(keep):
            return x
        return x + per_row(torch.tensor(keep, dtype=torch.float64), like) * images

    def _image(self, image: Tensor) -> Tensor:
        if tuple(image.shape) != self.space.shape or not image.is_floating_point():
            raise UsageError(
                f"an image to begin from must be float {self.space.shape}, got {image.dtype} {tuple(image.shape)}"
            )
        return image.to(self.device)

    def _guidance(
        self, wanted: Sequence[SamplingOptions], condition: Condition, negative: Condition
    ) -> Mapping[str, PerSample]:
        found: dict[str, PerSample] = {}
        if self.guide is not None:
            found[AUTO] = AutoguidanceWeights(*_numbers([options.auto() for options in wanted]))
        if not condition.empty:
            weights = [options.classifier_free() for options in wanted]
            found[CLASSIFIER_FREE] = _of_rows(weights, condition, negative)
        return found


@dataclass(frozen=True)
class GeneratorStage:
    """A generator, which makes its samples in one go: a stage without steps.

    Args:
        space: of its samples.
        latents: seeds -> (B, ...).
        decode: (latents, condition or None) -> samples.
        conditioner: of prompts.
        check: refuses options, of which a generator knows none.
        check_condition: refuses what it cannot make.
    """

    space: Space
    latents: Callable[[Sequence[int]], Tensor]
    decode: Callable[[Tensor, Condition | None], Tensor]
    conditioner: Conditioner | None = None
    check: Callable[[SamplingOptions], None] = lambda options: None
    check_condition: Callable[[Condition], object] = lambda condition: None
    sampler: None = None
    gradients: bool = False

    def bind(self, rows: Rows) -> Denoiser:
        """There is none."""
        raise UsageError("a generator makes samples in one go and has no denoiser")

    def start(self, requests: Sequence[Request]) -> Rows:
        """Latents, which need no step."""
        for request in requests:
            if request.options is not None:
                self.check(request.options)
            if request.image is not None:
                raise UsageError("a generator makes a sample in one go and cannot begin from an image; leave it out")
        seeds, (condition, _) = [request.seed for request in requests], conditions_of(requests, self.conditioner)
        self.check_condition(condition)
        rows = begin(
            self.latents(seeds), [torch.zeros(1)] * len(requests), None, seeds, requests=requests, condition=condition
        )
        return replace(rows, nfe=torch.ones_like(rows.nfe))

    def advance(self, rows: Rows) -> Rows:
        """No row of a generator has a step to take."""
        raise UsageError("a generator makes samples in one go and takes no steps")

    def finish(self, rows: Rows) -> Tensor:
        """The samples of the latents."""
        return self.decode(rows.x, None if rows.condition.empty else rows.condition)

    def for_next_stage(self, output: Tensor, requests: Sequence[Request]) -> list[Request]:
        """The requests for the next stage, with the output of this stage.

        Args:
            output: samples (B, *space.shape).
            requests: one per sample.
        """
        return with_previous(output, requests)


def conditions_of(requests: Sequence[Request], conditioner: Conditioner | None) -> tuple[Condition, Condition]:
    """The conditions of samples, and those that guidance leads away from; nothing where no request has any.

    Args:
        requests: whose prompts are a ``Prompt`` each, or a ready ``Condition`` of one sample each, or nothing.
        conditioner: of prompts; None where requests bring their conditions, or none.
    Raises:
        UsageError: a prompt that the conditioner does not know, or conditions for some of the requests alone.
    """
    prompts = [request.prompt for request in requests]
    if conditioner is None:
        return _ready(prompts, DROP)
    if not any(isinstance(prompt, Condition) for prompt in prompts):
        return conditioner.encode_prompts([prompt if prompt is not None else Prompt() for prompt in prompts])
    parts = [
        _ready([prompt], conditioner.policy)
        if isinstance(prompt, Condition)
        else conditioner.encode_prompts([prompt if prompt is not None else Prompt()])
        for prompt in prompts
    ]
    return Condition.join([wanted for wanted, _ in parts]), Condition.join([negative for _, negative in parts])


def _ready(conditions: Sequence[Condition | None], policy: DropPolicy) -> tuple[Condition, Condition]:
    """Conditions that requests bring, one row each, and what guidance makes of them."""
    given = [condition for condition in conditions if condition is not None]
    if not given:
        return Condition(), Condition()
    if len(given) < len(conditions):
        raise UsageError(
            f"{len(given)} of {len(conditions)} samples have a condition; give one with each, or with none"
        )
    joined = Condition.join(given)
    return joined, joined.drop(torch.ones(len(conditions), dtype=torch.bool), policy)


def _of_rows(weights: Sequence[GuidanceWeight], condition: Condition, negative: Condition) -> Guidance:
    scale, low, high = _numbers(weights)
    wanted, unwanted = condition.tensors(), negative.tensors()
    differs = (
        torch.stack([(wanted[name] != unwanted[name]).reshape(len(weights), -1).any(1) for name in wanted])
        if len(weights)
        else scale
    )
    scale = torch.where(differs.reshape(-1, len(weights)).any(0).cpu(), scale, 1.0)  # nothing to be led away from
    return replace(guidance_of([(condition, scale)], len(weights), negative=negative), low=low, high=high)


def _numbers(weights: Sequence[GuidanceWeight]) -> list[Tensor]:
    """Weights and both ends of intervals, (B,) float64 each."""
    rows = torch.tensor([(weight.scale, *weight.interval) for weight in weights], dtype=torch.float64)
    return list(rows.reshape(-1, 3).unbind(1))


def _steps_taken(request: Request, options: SamplingOptions) -> int:
    """The last so many steps of its grid; at least one, unless the image itself is wanted."""
    if request.image is None and options.strength != 1:
        raise UsageError(f"strength {options.strength:g} is of an image to begin from, and there is none; leave it out")
    return max(math.ceil(options.strength), math.floor(options.strength * options.num_steps + 0.5))


def _at(function: Callable[[Tensor], Tensor], time: float) -> float:
    return float(function(torch.tensor([time], dtype=torch.float64)))
