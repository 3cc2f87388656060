"""Samples from noise interpolated between two seeds.

    z(w) = mix(z_a, z_b; w),   x(w) = the sample that starts from z(w),   0 <= w <= 1,

with z_a and z_b the initial noises of seeds a and b. The noise of a stochastic sampler's steps is that of seed a for
all frames of a pair. On the straight line the norm of z falls to 0.71 midway, where a model gets inputs that it never
saw; the great circle keeps it. A generator that decodes latents starts from those of its seeds, and draws nothing
after.

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
        rows: of them shown.
        frames: images of a pair, both ends among them.
        sampler, steps: the model's own by default.
        class_name: of all samples; by default one class per pair, all in turn.
        no_class: of no class in particular.
    """

    mix: Literal["spherical", "linear", "both"] = "spherical"
    pairs: Annotated[int, Field(ge=2)] = 12
    rows: Annotated[int, Field(ge=1, le=16)] = 5
    frames: Annotated[int, Field(ge=3, le=33)] = 11
    sampler: str | None = None
    steps: Annotated[int, Field(ge=1)] | None = None


class Frames(NamedTuple):
    """Of one mix: ``norm`` (P, F) relative to the mean of the two ends', and the samples (P, F, C, H, W) in [-1, 1]."""

    norm: Tensor
    x: Tensor

    @property
    def spread(self) -> Tensor:
        """Pixel standard deviation among the pairs, of each frame: ``(F,)``, in units of [-1, 1]."""
        return self.x.double().var(dim=0).flatten(1).mean(1).sqrt()

    @property
    def sharpness(self) -> Tensor:
        """RMS difference of neighbouring pixels of each frame, over all pairs: ``(F,)``, in units of [-1, 1]."""
        x = self.x.double().transpose(0, 1).flatten(1, 2)  # (F, P * C, H, W)
        across, down = x.diff(dim=-1).square().flatten(1), x.diff(dim=-2).square().flatten(1)
        return torch.cat([across, down], dim=1).mean(1).sqrt()


class Way(Protocol):
    """From a model's prior to its samples.

    Attributes:
        words: what it is, for captions.
        record: for the JSON.
        draws: whether noise is drawn on the way.
    """

    words: str
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
        """Samples (B, C, H, W) in [-1, 1] from z (B, ...); ``seeds`` of whatever is drawn on the way."""
        ...


class Denoised:
    """By a sampler, from x_t at its first time."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.words, self.record = plan, f"{plan.sampler}, {plan.steps} steps", plan._asdict()
        self.draws = make_sampler(plan.sampler).stochastic

    def prior(self, context: ImageStudyContext, count: int) -> Tensor:
        """Noise of the images' own shape."""
        return context.noise(count).prior(torch.empty(count, *context.shape))

    def samples(
        self,
        context: ImageStudyContext,
        z: Tensor,
        seeds: Sequence[int],
        cond: Condition | None,
        on_progress: ProgressCallback,
    ) -> Tensor:
        """All steps of the sampler."""
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
    """By a generator, in one step."""

    def __init__(self, system: OneStepGenerator) -> None:
        self.system, self.words, self.record, self.draws = system, "the generator", {"sampler": None, "steps": 1}, False

    def prior(self, context: ImageStudyContext, count: int) -> Tensor:
        """The seeds' latents."""
        return self.system.latents(context.seeds(count))

    def samples(
        self,
        context: ImageStudyContext,
        z: Tensor,
        seeds: Sequence[int],
        cond: Condition | None,
        on_progress: ProgressCallback,
    ) -> Tensor:
        """The generator's."""
        on_progress(1, 1)
        return self.system.decode(z.to(context.device), cond)


def way_of(context: ImageStudyContext, options: PriorInterpolationOptions) -> Way:
    """How the model of a context gets from its prior to images.

    Raises:
        UsageError: a sampler or steps given for a generator, or a model that neither denoises nor decodes.
    """
    system = context.model.module
    if isinstance(system, OneStepGenerator):
        if options.sampler is not None or options.steps is not None:
            raise UsageError("this model samples in one step; leave sampler and steps out")
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
    """Samples that start between the noises of ``pairs`` pairs of seeds.

    The first frame of a pair is the sample of its first seed; the last is that of its second where the way draws no
    noise.
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
        "Samples from noise interpolated between two seeds  (w: weight of the second; framed: the seeds' own)",
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
    left.set(title="norm of the noise, over that of its ends", xlabel="w", ylim=(0.65, 1.05))
    middle.set(title="deviation among the pairs' images", xlabel="w")
    right.set(title="difference of neighbouring pixels", xlabel="w")
    for one in axes:
        one.title.set_fontsize(9.5)
        one.legend(fontsize=8, frameon=False)
        plot_style.grid_lines(one)


def _dip(values: Tensor) -> float:
    """What a number of the frames (F,) is midway, over the mean of the ends."""
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
        f"A row goes from the noise of one seed to that of the next, {options.frames} frames, {way.words}. "
        f"{_on_ends(way.draws)}{_on_mixes(done) if len(done) > 1 else ''} Below, over "
        f"{options.pairs} pairs: the norm of the mixed noise over the mean of its ends', the deviation among the "
        "images of different pairs, and the RMS difference of neighbouring pixels. In study.json, of every frame, "
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
        "Noise is drawn on the way, the same at every step for all frames of a pair, that of the first seed: so the "
        "first frame is that seed's own sample, and the last one is not."
        if stochastic
        else "No noise is drawn on the way, so the ends are the seeds' own samples, bit for bit."
    )


def _on_mixes(done: dict[str, Frames]) -> str:
    return (
        " Of each pair the upper row turns on the great circle and the lower goes straight. There the noise is short "
        "midway, 0.71 of its norm, a length that no draw of N(0, I) has. Midway images deviate from pair to pair "
        f"{_dip(done['linear'].spread):.0%} as much as at the ends, on the great circle "
        f"{_dip(done['spherical'].spread):.0%}; neighbouring pixels differ {_dip(done['linear'].sharpness):.0%} as "
        f"much as there, on the great circle {_dip(done['spherical'].sharpness):.0%}. A classifier may well be surer "
        "of plainer images: legible is not the same as right."
    )


def _numbers(frames: Frames, legible: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Of one mix, for the JSON."""
    return {
        "relative_norm": frames.norm.mean(0).tolist(),
        "smallest_relative_norm": float(frames.norm.min()),
        "deviation_among_pairs": frames.spread.tolist(),
        "deviation_midway_over_ends": _dip(frames.spread),
        "sharpness": frames.sharpness.tolist(),
        "sharpness_midway_over_ends": _dip(frames.sharpness),
        "legibility": legible.tolist(),
        "legibility_of_ends": float(legible[[0, -1]].mean()),
        "legibility_midway": float(legible[len(legible) // 2]),
    }
