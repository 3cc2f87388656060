"""Samples from noise interpolated between two seeds.

    z(w) = mix(z_a, z_b; w),   x(w) = the sample that starts from z(w),   0 <= w <= 1,

with z_a and z_b the initial noises of seeds a and b. The noise of a stochastic sampler's steps is that of seed a for
all frames of a pair. Under linear interpolation the norm of z falls to 0.71 midway, where inputs are unlike those of
training; spherical interpolation preserves it. A generator that decodes latents starts from the latents of its seeds,
without further noise.

Source: Song et al. 2021, arXiv:2010.02502, sec. 5.3 (spherical, deterministic sampler);
Radford et al. 2015, arXiv:1511.06434, fig. 4 (a GAN's latents); White 2016, arXiv:1609.04468 (spherical there).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.errors import UsageError
from undiffuse.models.base import OneStepGenerator
from undiffuse.models.classes import Classes
from undiffuse.observer import ProgressCallback
from undiffuse.samplers import make_sampler
from undiffuse.samplers.noise import SeededNoise
from undiffuse.studies.images.context import ClassOptions, ImageStudyContext, Plan, sampling_plan
from undiffuse.studies.images.interpolants import evenly, mixed
from undiffuse.studies.images.legibility import Legibility
from undiffuse.studies.plots import image_grid, plot_style
from undiffuse.studies.plots.plot_style import StudyFigure

_COLOURS = {"spherical": plot_style.BLUE, "linear": plot_style.RED}


class PriorInterpolationOptions(ClassOptions):
    """Options of the study ``prior-interpolation``.

    Args:
        mix: ``spherical``, ``linear``, or ``both`` for comparison.
        pairs: pairs of seeds; pair i has seeds ``seed + 2 i`` and the next one.
        rows: pairs shown.
        frames: images of a pair, including both ends.
        sampler, steps: the model's by default.
        class_name: of all samples; by default one class per pair, cycling through all classes.
        no_class: sample without a class.
    """

    mix: Literal["spherical", "linear", "both"] = "spherical"
    pairs: Annotated[int, Field(ge=2)] = 12
    rows: Annotated[int, Field(ge=1, le=16)] = 5
    frames: Annotated[int, Field(ge=3, le=33)] = 11
    sampler: str | None = None
    steps: Annotated[int, Field(ge=1)] | None = None


class Frames(NamedTuple):
    """Frames of one mix: ``norm`` (P, F) relative to the mean of both ends, and samples (P, F, C, H, W) in [-1, 1]."""

    norm: Tensor
    x: Tensor

    @property
    def spread(self) -> Tensor:
        """Pixel standard deviation over the pairs for each frame: ``(F,)``, in units of [-1, 1]."""
        return self.x.double().var(dim=0).flatten(1).mean(1).sqrt()

    @property
    def sharpness(self) -> Tensor:
        """RMS difference of neighbouring pixels of each frame, over all pairs: ``(F,)``, in units of [-1, 1]."""
        x = self.x.double().transpose(0, 1).flatten(1, 2)  # (F, P * C, H, W)
        across, down = x.diff(dim=-1).square().flatten(1), x.diff(dim=-2).square().flatten(1)
        return torch.cat([across, down], dim=1).mean(1).sqrt()


class Way(Protocol):
    """Maps a model's prior to samples.

    Attributes:
        description: for captions.
        record: JSON record.
        draws: whether noise is drawn during sampling.
    """

    description: str
    record: dict[str, Any]
    draws: bool

    def prior(self, context: ImageStudyContext, count: int) -> Tensor:
        """The initial noise of the first ``count`` seeds, (count, ...) of N(0, I)."""
        ...

    def samples(
        self,
        context: ImageStudyContext,
        z: Tensor,
        seeds: Sequence[int],
        cond: Condition | None,
        on_progress: ProgressCallback,
    ) -> Tensor:
        """Samples (B, C, H, W) in [-1, 1] from z (B, ...); ``seeds`` of the noise drawn during sampling."""
        ...


class Denoised:
    """Generates by a sampler, from x_t at its first time."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.description, self.record = plan, f"{plan.sampler}, {plan.steps} steps", plan._asdict()
        self.draws = make_sampler(plan.sampler).stochastic

    def prior(self, context: ImageStudyContext, count: int) -> Tensor:
        """Noise of the shape of the images."""
        return context.noise(count).prior(torch.empty(count, *context.shape))

    def samples(
        self,
        context: ImageStudyContext,
        z: Tensor,
        seeds: Sequence[int],
        cond: Condition | None,
        on_progress: ProgressCallback,
    ) -> Tensor:
        """Run all steps of the sampler."""
        times = context.times(self.plan.steps)
        return context.denoise_from(
            context.process.start_std(float(times[0])) * z.to(context.device),
            times,
            sampler=self.plan.sampler,
            noise=SeededNoise(seeds),
            cond=cond,
            callback=lambda progress: on_progress(progress.index + 1, progress.count),
        )


class Decoded:
    """Generates by a one-step generator."""

    def __init__(self, system: OneStepGenerator) -> None:
        self.system, self.description, self.record, self.draws = (
            system,
            "the generator",
            {"sampler": None, "steps": 1},
            False,
        )

    def prior(self, context: ImageStudyContext, count: int) -> Tensor:
        """The latents of the seeds."""
        return self.system.latents(context.seeds(count))

    def samples(
        self,
        context: ImageStudyContext,
        z: Tensor,
        seeds: Sequence[int],
        cond: Condition | None,
        on_progress: ProgressCallback,
    ) -> Tensor:
        """Decode the latents."""
        on_progress(1, 1)
        return self.system.decode(z.to(context.device), cond)


def way_of(context: ImageStudyContext, options: PriorInterpolationOptions) -> Way:
    """The generation method of the model of a context.

    Raises:
        UsageError: if a sampler or steps are given for a generator, or the model neither denoises nor decodes.
    """
    system = context.model.module
    if isinstance(system, OneStepGenerator):
        if options.sampler is not None or options.steps is not None:
            raise UsageError("this model samples in one step; omit sampler and steps")
        return Decoded(system)
    return Denoised(sampling_plan(context, options.sampler, options.steps))


def frames_between(
    context: ImageStudyContext,
    way: Way,
    mix: str,
    pairs: int,
    weights: list[float],
    class_name: Classes,
    on_progress: ProgressCallback,
) -> Frames:
    """Samples from noise interpolated between ``pairs`` pairs of seeds.

    The first frame of a pair is the sample of its first seed; the last is that of its second seed if no noise is drawn
    during sampling.
    """
    prior, count = way.prior(context, 2 * pairs), len(weights)
    z = mixed(prior[0::2], prior[1::2], weights, mix)  # (P, F, ...)
    norm = z.double().flatten(2).norm(dim=2)
    seeds = [seed for seed in context.seeds(2 * pairs)[0::2] for _ in range(count)]
    cond = context.condition(pairs, class_name)
    rows = torch.arange(pairs).repeat_interleave(count).to(context.device)
    x = way.samples(context, z.flatten(0, 1), seeds, cond.select(rows) if cond is not None else None, on_progress)
    return Frames(norm / norm[:, [0, -1]].mean(1, keepdim=True), x.cpu().reshape(pairs, count, *context.shape))


def study_prior_interpolation(
    context: ImageStudyContext, options: PriorInterpolationOptions, folder: Path, on_progress: ProgressCallback
) -> list[StudyFigure]:
    """``prior_interpolation.png``: one row per pair of seeds, norms and legibility below."""
    way = way_of(context, options)
    mixes = ["spherical", "linear"] if options.mix == "both" else [options.mix]
    weights, parts = evenly(options.frames), len(mixes)
    done = {}
    for number, mix in enumerate(mixes):

        def part(step: float, count: float, number: int = number) -> None:
            on_progress(number * count + step, parts * count)

        done[mix] = frames_between(context, way, mix, options.pairs, weights, options.requested, part)
    legibility = Legibility(context)
    legible = {mix: _legible(context, frames, legibility) for mix, frames in done.items()}
    figure, axes = image_grid.draw([_table(context, options, way, done, weights)], num_charts=3, chart_height=400)
    _charts(axes, weights, done)
    plot_style.save(figure, folder / "prior_interpolation.png")
    return [_study_figure(way, options, weights, done, legible, legibility)]


def _legible(context: ImageStudyContext, frames: Frames, legibility: Legibility) -> npt.NDArray[np.float64]:
    """Mean over the pairs, (F,)."""
    values = legibility(context.finish(frames.x.flatten(0, 1)))
    mean: npt.NDArray[np.float64] = values.reshape(frames.x.shape[:2]).mean(0)
    return mean


def _table(
    context: ImageStudyContext,
    options: PriorInterpolationOptions,
    way: Way,
    done: dict[str, Frames],
    weights: list[float],
) -> image_grid.Table:
    shown = min(options.rows if len(done) == 1 else max(1, options.rows // 2 + 1), options.pairs)
    images, labels = [], []
    for row in range(shown):
        first = context.seed + 2 * row
        for mix, frames in done.items():
            images.append(context.finish(frames.x[row]))
            labels.append(f"{mix}\n" * (len(done) > 1) + f"seeds {first}, {first + 1}")
    ends = {(row, column): plot_style.ORANGE for row in range(len(images)) for column in (0, len(weights) - 1)}
    return image_grid.Table(
        images,
        labels,
        [f"w = {weight:.3g}" for weight in weights],
        "Samples from noise interpolated between two seeds  (w: weight of the second; framed: the samples of the "
        "seeds)",
        frames=ends if not way.draws else {},
        row_gaps=range(2, len(images), 2) if len(done) > 1 else (),
    )


def _charts(axes: Any, weights: list[float], done: dict[str, Frames]) -> None:
    left, middle, right = axes
    for mix, frames in done.items():
        left.plot(weights, frames.norm.mean(0).numpy(), "o-", ms=3.5, color=_COLOURS[mix], label=mix)
        middle.plot(weights, frames.spread.numpy(), "o-", ms=3.5, color=_COLOURS[mix], label=mix)
        right.plot(weights, frames.sharpness.numpy(), "o-", ms=3.5, color=_COLOURS[mix], label=mix)
    left.axhline(0.5**0.5, color=plot_style.GREY, lw=0.9, ls=":")
    left.text(0.02, 0.5**0.5 + 0.008, "0.71", fontsize=8, color=plot_style.GREY)
    left.set(title="norm of the noise, relative to its ends", xlabel="w", ylim=(0.65, 1.05))
    middle.set(title="deviation between the images of pairs", xlabel="w")
    right.set(title="difference of neighbouring pixels", xlabel="w")
    for chart in axes:
        chart.title.set_fontsize(9.5)
        chart.legend(fontsize=8, frameon=False)
        plot_style.grid_lines(chart)


def _midway_ratio(values: Tensor) -> float:
    """Ratio of the value (F,) at the middle frame to the mean of both ends."""
    return float(values[len(values) // 2] / values[[0, -1]].mean())


def _study_figure(
    way: Way,
    options: PriorInterpolationOptions,
    weights: list[float],
    done: dict[str, Frames],
    legible: dict[str, npt.NDArray[np.float64]],
    legibility: Legibility,
) -> StudyFigure:
    numbers = {mix: _numbers(frames, legible[mix]) for mix, frames in done.items()}
    return StudyFigure(
        "prior_interpolation.png",
        "Interpolation of the prior's noise",
        f"A row interpolates from the noise of one seed to that of the next, {options.frames} frames, "
        f"{way.description}. "
        f"{_on_ends(way.draws)}{_on_mixes(done) if len(done) > 1 else ''} Below, over "
        f"{options.pairs} pairs: the norm of the mixed noise relative to the mean of both ends, the deviation "
        "between the "
        "images of different pairs, and the RMS difference of neighbouring pixels. study.json contains, for every "
        "frame, "
        f"the {legibility.name}, averaged.",
        "spherical: z(w) = [sin((1-w)ω) z_a + sin(wω) z_b] / sin ω;  linear: z(w) = (1-w) z_a + w z_b",
        "Song et al. 2021, arXiv:2010.02502, sec. 5.3; `undiffuse.studies.images.interpolants:spherical`",
        {
            **way.record,
            "pairs": options.pairs,
            "weights": weights,
            "legibility_is": legibility.name,
            "ends_are_samples": "first" if way.draws else "both",
            **numbers,
        },
    )


def _on_ends(stochastic: bool) -> str:
    return (
        "Noise is drawn during sampling, the same for all frames of a pair, that of the first seed: so the "
        "first frame is the sample of its seed, and the last one is not."
        if stochastic
        else "No noise is drawn during sampling, so the ends are the samples of the seeds, bit for bit."
    )


def _on_mixes(done: dict[str, Frames]) -> str:
    return (
        " For each pair the upper row is spherical, the lower linear. Under linear interpolation the noise has, "
        "midway, 0.71 of its norm, which is atypical for N(0, I). There images deviate between pairs "
        f"{_midway_ratio(done['linear'].spread):.0%} as much as at the ends, under spherical interpolation "
        f"{_midway_ratio(done['spherical'].spread):.0%}; neighbouring pixels differ "
        f"{_midway_ratio(done['linear'].sharpness):.0%} as "
        f"much as there, under spherical interpolation {_midway_ratio(done['spherical'].sharpness):.0%}. A "
        "classifier may be more "
        "confident on plainer images: legible is not the same as realistic."
    )


def _numbers(frames: Frames, legible: npt.NDArray[np.float64]) -> dict[str, Any]:
    """JSON record of one mix."""
    return {
        "relative_norm": frames.norm.mean(0).tolist(),
        "smallest_relative_norm": float(frames.norm.min()),
        "deviation_among_pairs": frames.spread.tolist(),
        "deviation_midway_over_ends": _midway_ratio(frames.spread),
        "sharpness": frames.sharpness.tolist(),
        "sharpness_midway_over_ends": _midway_ratio(frames.sharpness),
        "legibility": legible.tolist(),
        "legibility_of_ends": float(legible[[0, -1]].mean()),
        "legibility_midway": float(legible[len(legible) // 2]),
    }
