"""Sampling stages: iterative denoising with one network, or a single evaluation of a generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undiffuse.conditioning.base import Conditioner, EncodedPrompts
from undiffuse.conditioning.prompt import Prompt
from undiffuse.core.condition import DROP, Condition, DropPolicy
from undiffuse.core.denoiser import ClippedDenoiser, Denoiser, TransferredDenoiser
from undiffuse.core.limits import parse_threshold
from undiffuse.core.per_sample import PerSample
from undiffuse.core.process import Process
from undiffuse.core.rows import per_row
from undiffuse.core.space import Space
from undiffuse.errors import RunError, UsageError
from undiffuse.guidance.autoguidance import AutoguidanceWeights, Autoguided
from undiffuse.guidance.classifier import ClassifierWeights, NoisyClassifier, guided_by_classifier
from undiffuse.guidance.guided import ConditionedDenoiser, Guidance, Guided, build_guidance
from undiffuse.guidance.refinement import Refinement
from undiffuse.guidance.thresholding import ThresholdedDenoiser, Thresholds
from undiffuse.models.classifier_requests import CLASSIFIER, classifier_guidance, without_unknown_prompts
from undiffuse.models.options import GuidanceWeight, SamplingOptions
from undiffuse.samplers.base import Sampler, stall_message
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.noise import SeededNoise
from undiffuse.samplers.plan import Request, with_previous
from undiffuse.samplers.rows import Rows, advance, begin
from undiffuse.wording import count_noun

#: Keys of two kinds of guidance in ``Rows.guidance``; that of classifier guidance is ``CLASSIFIER``.
CLASSIFIER_FREE, AUTO = "classifier_free", "auto"
#: Key of the thresholds of x_0-hat in ``Rows.guidance``.
THRESHOLD = "threshold"
#: Options that must be equal for all samples of a plan, since the sampler and the denoiser depend on them.
SHARED_OPTIONS = ("sampler", "process", "cache_interval", "classifier", "classifier_through")


@dataclass(frozen=True)
class DenoisingStage:
    """Sampling with one denoising network; see ``samplers.plan.Stage``.

    Args:
        space: space of the samples.
        sampler: the sampler.
        network: the denoiser, evaluated on batches of fixed size or through another batching wrapper.
        options: default options, which a request may override.
        guide: the weaker model of autoguidance, batched in the same way; None if there is none.
        process: forward process to sample under; None for that of the network.
        clips: whether to clip x_0-hat to the range of the space.
        conditioner: encodes prompts; None if requests contain conditions or none.
        check: raises UsageError for options that the model does not support.
        device: device of the network.
        stream: random stream of the noise, the index of the stage.
        gradients: whether a step needs gradients through the network.
        classifier: the classifier of classifier guidance; None if there is none.
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
    classifier: NoisyClassifier | None = None

    def bind(self, rows: Rows) -> Denoiser:
        """The denoiser with per-sample conditions and guidance, clipped x_0-hat, and the stage's process.

        Args:
            rows: the samples, with their conditions and guidance.
        """
        denoiser, auto, free = self.network, rows.guidance.get(AUTO), rows.guidance.get(CLASSIFIER_FREE)
        if isinstance(auto, AutoguidanceWeights) and self.guide is not None and auto.active:
            assert auto.weight is not None and auto.low is not None and auto.high is not None
            denoiser = Autoguided(denoiser, self.guide, auto.weight, (auto.low, auto.high))
        if isinstance(free, Guidance):
            denoiser = Guided(denoiser, free)
        elif not rows.condition.empty:
            denoiser = ConditionedDenoiser(denoiser, rows.condition)
        weights = rows.guidance.get(CLASSIFIER)
        if isinstance(weights, ClassifierWeights) and self.classifier is not None:
            denoiser = guided_by_classifier(denoiser, self.classifier, weights, self.options.classifier_through)
        return self._wrapped(self._thresholded(denoiser, rows.guidance.get(THRESHOLD)))

    def _thresholded(self, denoiser: Denoiser, thresholds: PerSample | None) -> Denoiser:
        """``denoiser`` with x_0-hat clipped after guidance."""
        if self.space.value_range is None:
            return denoiser
        if not isinstance(thresholds, Thresholds):
            return ClippedDenoiser(denoiser, *self.space.value_range) if self.clips else denoiser
        if thresholds.is_static:
            return ClippedDenoiser(denoiser, *self.space.value_range)
        return denoiser if thresholds.is_none else ThresholdedDenoiser(denoiser, thresholds, *self.space.value_range)

    def _wrapped(self, denoiser: Denoiser) -> Denoiser:
        return denoiser if self.process is None else TransferredDenoiser(denoiser, self.process)

    def start(self, requests: Sequence[Request]) -> Rows:
        """Samples at the first times of their grids: noise, or an image noised according to its strength.

        Raises:
            UsageError: if the model or the plan does not support an option.
        """
        merged = [self._options(request) for request in requests]
        grids, denoiser = self._grids(merged), self._wrapped(self.network)
        index = [
            len(grid) - 1 - _steps_taken(request, options)
            for request, grid, options in zip(requests, grids, merged, strict=True)
        ]
        by_class = classifier_guidance(self.classifier, self.conditioner, merged, requests)
        known = requests if self.classifier is None else without_unknown_prompts(requests, self.conditioner)
        encoded = conditions_of(known, self.conditioner).to(self.device)
        return begin(
            self._initial_x(requests, merged, grids, index, denoiser.process),
            grids,
            self.sampler,
            [request.seed for request in requests],
            stream=self.stream,
            requests=requests,
            index=index,
            condition=encoded.condition,
            guidance={**self._guidance(merged, encoded), **by_class},
        )

    def advance(self, rows: Rows) -> Rows:
        """Advance each sample by one step of the sampler."""
        return advance(self.bind(rows), self.sampler, rows)

    def finish(self, rows: Rows) -> Tensor:
        """The final samples x.

        Raises:
            RunError: if a sample is not finite.
        """
        bad = rows.failed.nonzero().flatten().tolist()
        if bad and self.sampler.adaptive:
            raise RunError(stall_message(len(bad), len(rows), self.sampler))
        if bad:
            options = self._options(rows.requests[bad[0]])
            temperature = f" at temperature {options.temperature:g}" if options.temperature != 1 else ""
            raise RunError(
                f"{len(bad)} of {len(rows)} samples are not finite with sampler {self.sampler.name}, "
                f"{count_noun(options.num_steps, 'step')} on the grid {options.grid!r}{temperature}; use more steps, "
                "another grid or sampler; if none helps, the weights are unusable"
            )
        return rows.x

    def for_next_stage(self, output: Tensor, requests: Sequence[Request]) -> list[Request]:
        """The requests for the next stage, with the output of this stage.

        Args:
            output: samples (B, *space.shape).
            requests: one per sample.
        """
        return with_previous(output, requests)

    def _options(self, request: Request) -> SamplingOptions:
        """The options of a request, merged with the defaults and checked."""
        if request.options is None:
            return self.options
        for name, value in request.options.given().items():
            if name in SHARED_OPTIONS and value != getattr(self.options, name):
                raise UsageError(f"all samples of a plan must have the same {name}; create another plan for {value!r}")
        options: SamplingOptions = request.options.over(self.options)
        self.check(options)
        return options

    def _grids(self, merged: Sequence[SamplingOptions]) -> list[Tensor]:
        denoiser, grids = self._wrapped(self.network), dict[tuple[str, int], Tensor]()
        for key in {(options.grid, options.num_steps) for options in merged}:
            grids[key] = time_grid(key[0], denoiser.process, key[1], denoiser.log_snr_range)
        return [grids[options.grid, options.num_steps] for options in merged]

    def _initial_x(
        self,
        requests: Sequence[Request],
        merged: Sequence[SamplingOptions],
        grids: Sequence[Tensor],
        index: Sequence[int],
        process: Process,
    ) -> Tensor:
        """alpha x_0 + sigma eps for samples that start from an image, ``start_std`` eps for the others."""
        like = torch.empty(len(requests), *self.space.shape, device=self.device)
        noise = SeededNoise([request.seed for request in requests], stream=self.stream).prior(like)
        sigmas, alphas, images = [], [], torch.zeros_like(like)
        for row, (request, options, grid, first) in enumerate(zip(requests, merged, grids, index, strict=True)):
            time, has_image = float(grid[first]), request.image is not None and options.strength < 1
            unchanged = has_image and first == options.num_steps  # the image without noise, even if sigma(0) > 0
            sigma = 0.0 if unchanged else _evaluate(process.sigma, time) if has_image else process.start_std(time)
            sigmas.append(options.temperature * sigma)
            alphas.append(1.0 if unchanged else _evaluate(process.alpha, time) if has_image else 0.0)
            if has_image and request.image is not None:
                images[row] = self._image(request.image)
        x = per_row(torch.tensor(sigmas, dtype=torch.float64), like) * noise
        if not any(alphas):
            return x
        return x + per_row(torch.tensor(alphas, dtype=torch.float64), like) * images

    def _image(self, image: Tensor) -> Tensor:
        if tuple(image.shape) != self.space.shape or not image.is_floating_point():
            raise UsageError(
                f"an initial image must be float {self.space.shape}, got {image.dtype} {tuple(image.shape)}"
            )
        return image.to(self.device)

    def _guidance(self, merged: Sequence[SamplingOptions], encoded: EncodedPrompts) -> Mapping[str, PerSample]:
        guidance: dict[str, PerSample] = {}
        if self.guide is not None:
            guidance[AUTO] = AutoguidanceWeights(*_stack_weights([options.auto() for options in merged]))
        if not encoded.condition.empty:
            weights = [options.classifier_free() for options in merged]
            guidance[CLASSIFIER_FREE] = replace(_classifier_free(weights, encoded), refinement=_refinement(merged))
        if self.space.value_range is not None:
            guidance[THRESHOLD] = _thresholds(merged, self.clips)
        elif any(options.threshold is not None for options in merged):
            raise UsageError("threshold is for images, and this model generates other data; leave it out")
        return guidance


@dataclass(frozen=True)
class GeneratorStage:
    """Sampling with a generator in one evaluation: a stage without steps.

    Args:
        space: space of the samples.
        latents: seeds -> latents (B, ...).
        decode: (latents, condition or None) -> samples.
        conditioner: encodes prompts.
        check: raises UsageError for options, since a generator supports none.
        check_condition: raises UsageError for conditions that the generator does not support.
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
        """Always raises UsageError, since a generator has no denoiser."""
        raise UsageError("a generator samples in one evaluation and has no denoiser")

    def start(self, requests: Sequence[Request]) -> Rows:
        """Latents, which need no steps."""
        for request in requests:
            if request.options is not None:
                self.check(request.options)
            if request.image is not None:
                raise UsageError("a generator samples in one evaluation and cannot start from an image; leave it out")
        seeds, condition = (
            [request.seed for request in requests],
            conditions_of(requests, self.conditioner).condition,
        )
        self.check_condition(condition)
        rows = begin(
            self.latents(seeds), [torch.zeros(1)] * len(requests), None, seeds, requests=requests, condition=condition
        )
        return replace(rows, nfe=torch.ones_like(rows.nfe))

    def advance(self, rows: Rows) -> Rows:
        """Always raises UsageError, since a generator takes no steps."""
        raise UsageError("a generator samples in one evaluation and takes no steps")

    def finish(self, rows: Rows) -> Tensor:
        """Decode the latents into samples."""
        return self.decode(rows.x, None if rows.condition.empty else rows.condition)

    def for_next_stage(self, output: Tensor, requests: Sequence[Request]) -> list[Request]:
        """The requests for the next stage, with the output of this stage.

        Args:
            output: samples (B, *space.shape).
            requests: one per sample.
        """
        return with_previous(output, requests)


def conditions_of(requests: Sequence[Request], conditioner: Conditioner | None) -> EncodedPrompts:
    """The conditions of samples, and the negative conditions of guidance; empty if no request has any.

    Args:
        requests: requests whose prompt is a ``Prompt``, a ``Condition`` of one sample, or None.
        conditioner: encodes prompts; None if requests contain conditions or none.
    Raises:
        UsageError: if the conditioner does not know a prompt, or only some requests have conditions.
    """
    prompts = [request.prompt for request in requests]
    if conditioner is None:
        return _join_conditions(prompts, DROP)
    if not any(isinstance(prompt, Condition) for prompt in prompts):
        return conditioner.encode_prompts([prompt if prompt is not None else Prompt() for prompt in prompts])
    parts = [
        _join_conditions([prompt], conditioner.policy)
        if isinstance(prompt, Condition)
        else conditioner.encode_prompts([prompt if prompt is not None else Prompt()])
        for prompt in prompts
    ]
    return EncodedPrompts.join(parts)


def _join_conditions(conditions: Sequence[Condition | None], policy: DropPolicy) -> EncodedPrompts:
    """The joined conditions of requests, and the same with dropped labels as negative conditions."""
    given = [condition for condition in conditions if condition is not None]
    if not given:
        return EncodedPrompts.of(Condition(), Condition(), len(conditions))
    if len(given) < len(conditions):
        raise UsageError(f"{len(given)} of {len(conditions)} samples have a condition; give one for each, or for none")
    joined = Condition.join(given)
    negative = joined.drop(torch.ones(len(conditions), dtype=torch.bool), policy)
    return EncodedPrompts.of(joined, negative, len(conditions))


def _classifier_free(weights: Sequence[GuidanceWeight], encoded: EncodedPrompts) -> Guidance:
    """Classifier-free guidance per sample, disabled where all terms and the negative condition are equal."""
    scale, low, high = _stack_weights(weights)
    count = len(weights)
    differs = torch.stack([_differs(condition, encoded.negative, count) for condition, _ in encoded.terms]).any(0)
    terms = [(condition, _term_scale(scale, weight, differs)) for condition, weight in encoded.terms]
    first = torch.where(differs, terms[0][1], 1.0)
    terms[0] = (encoded.condition, first)
    return replace(build_guidance(terms, count, negative=encoded.negative), low=low, high=high)


def _refinement(merged: Sequence[SamplingOptions]) -> Refinement:
    """Refinement of each sample's guidance."""
    rows = [(one.guidance_rescale, one.guidance_parallel, one.guidance_norm) for one in merged]
    rescale, parallel, norm = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3).unbind(1)
    return Refinement(rescale, parallel, norm)


def _thresholds(merged: Sequence[SamplingOptions], clips: bool) -> Thresholds:
    """Threshold of each sample; a static one by default if the model clips."""
    own = "static" if clips else "none"
    rows = [parse_threshold(own if one.threshold is None else one.threshold) for one in merged]
    return Thresholds(
        torch.tensor([kind != "none" for kind, _ in rows], dtype=torch.bool),
        torch.tensor([quantile for _, quantile in rows], dtype=torch.float64),
    )


def _term_scale(scale: Tensor, weight: Tensor, differs: Tensor) -> Tensor:
    """Guidance weights (B,) of one term of a composition."""
    return torch.where(differs, scale * weight, 0.0)


def _differs(condition: Condition, negative: Condition, count: int) -> Tensor:
    """(B,) whether a condition differs from the negative condition."""
    positives, negatives = condition.tensors(), negative.tensors()
    if not count:
        return torch.zeros(0, dtype=torch.bool)
    return torch.stack(
        [(positives[name] != negatives[name]).reshape(count, -1).any(1).cpu() for name in positives]
    ).any(0)


def _stack_weights(weights: Sequence[GuidanceWeight]) -> list[Tensor]:
    """Scales and lower and upper ends of the intervals, (B,) float64 each."""
    rows = torch.tensor([(weight.scale, *weight.interval) for weight in weights], dtype=torch.float64)
    return list(rows.reshape(-1, 3).unbind(1))


def _steps_taken(request: Request, options: SamplingOptions) -> int:
    """Number of steps to take at the end of the grid, at least one unless the strength is 0."""
    if request.image is None and options.strength != 1:
        raise UsageError(f"strength {options.strength:g} needs an initial image, and there is none; leave it out")
    return max(math.ceil(options.strength), math.floor(options.strength * options.num_steps + 0.5))


def _evaluate(function: Callable[[Tensor], Tensor], time: float) -> float:
    return float(function(torch.tensor([time], dtype=torch.float64)))
