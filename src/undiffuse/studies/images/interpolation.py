"""Interpolation of two real images: encoded to time t, mixed there and decoded; and the same over t, coarse to fine.

Stochastic, as in DDPM: both images get the same noise, x_t = alpha x_0 + sigma eps, and all mixes get the same step
noise in decoding. Deterministic: both are encoded along the probability-flow ODE to time t and decoded with it. With
more noise the intermediate image is less a double exposure of the two and more a separate realistic image.

    x_t(w) = mix(x_t, x_t'; w),   x_0(w) ~ p(x_0 | x_t(w)),   0 <= w <= 1

Source: Ho et al. 2020, arXiv:2006.11239, sec. 4.3 and appendix D, figs. 8 and 9; Song et al. 2021, arXiv:2011.13456,
sec. 4.3, for the deterministic encoding.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoiser
from undiffuse.errors import UsageError
from undiffuse.observer import ProgressCallback
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser
from undiffuse.samplers.inversion import generate, invert, ode_range
from undiffuse.samplers.noise import SeededNoise
from undiffuse.studies.images.context import ClassOptions, ImageStudyContext, Plan, real_pairs, sampling_plan
from undiffuse.studies.images.interpolants import evenly, mixed
from undiffuse.studies.images.legibility import Legibility
from undiffuse.studies.images.times import Fraction, Fractions, matched_times, time_label
from undiffuse.studies.plots import image_grid, plot_style
from undiffuse.studies.plots.plot_style import StudyFigure
from undiffuse.wording import count_noun

#: As in DDPM's figures: 500 of 1000 steps, and every 125.
_DEFAULT_FRACTION = 0.5
_FRACTIONS = tuple(k / 8 for k in range(9))
#: Heun steps of the ODE over its full log-SNR range, NFE 2 each.
_ODE_STEPS = 32
#: Batch size of the ODE's network: small, because there are often few samples.
_BLOCK = 4


class InterpolationOptions(ClassOptions):
    """Options of the study ``interpolation``.

    Args:
        t: time to which the images are encoded; by default the time with the noise of DDPM's chain after 500 of its
            1000 steps.
        levels: times of the figure from coarse to fine; by default the noise of every 125 of those steps.
        mode: ``stochastic``, noise added and removed again, or ``deterministic``, along the ODE.
        mix: ``linear`` or ``spherical``; by default linear if stochastic, as in DDPM, and spherical if deterministic.
        pairs: number of pairs of real images.
        pair: number of the pair that is shown from coarse to fine.
        frames: mixes of a pair, including both ends.
        sampler: for decoding: by default the model's sampler if it is stochastic, otherwise ancestral; in the
            deterministic mode the ODE solver, or a sampler without noise.
        steps: of the sampler's full grid, or of the ODE over its full range.
        class_name: of both images; a conditional model uses pairs of one class, by default cycling through all.
        no_class: use no class condition.
    """

    t: Fraction | None = None
    levels: Fractions | None = None
    mode: Literal["stochastic", "deterministic"] = "stochastic"
    mix: Literal["linear", "spherical"] | None = None
    pairs: Annotated[int, Field(ge=1, le=32)] = 5
    pair: Annotated[int, Field(ge=1)] = 1
    frames: Annotated[int, Field(ge=3, le=33)] = 11
    sampler: str | None = None
    steps: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if self.pair > self.pairs:
            raise ValueError(f"pair={self.pair} is not among pairs={self.pairs}")
        return self


class Way(NamedTuple):
    """How images are encoded, mixed and decoded; ``ode`` is whether the ODE solver decodes."""

    deterministic: bool
    mix: str
    plan: Plan
    ode: bool


def way_of(context: ImageStudyContext, options: InterpolationOptions) -> Way:
    """The method that the options specify.

    Raises:
        UsageError: if a stochastic sampler is given in the deterministic mode.
    """
    deterministic = options.mode == "deterministic"
    mix = options.mix or ("spherical" if deterministic else "linear")
    if deterministic and options.sampler is None:
        return Way(True, mix, Plan("probability-flow ODE, heun", options.steps or _ODE_STEPS), True)
    plan = sampling_plan(context, options.sampler, options.steps, stochastic=not deterministic)
    if deterministic and make_sampler(plan.sampler).stochastic:
        raise UsageError(
            f"mode=deterministic decodes without noise, got sampler={plan.sampler!r}, which draws some; use heun or "
            "ddim, or omit sampler"
        )
    return Way(deterministic, mix, plan, False)


class Mixes(NamedTuple):
    """Frames (P, F, C, H, W) in [-1, 1] at one time ``t``."""

    t: float
    x: Tensor


class Pairs(NamedTuple):
    """The two images of each pair as x_0 (P, C, H, W), the condition of each pair, and the seeds of the noise."""

    a: Tensor
    b: Tensor
    cond: Condition | None
    seeds: range


def interpolate(
    context: ImageStudyContext, way: Way, pairs: Pairs, t: float, weights: list[float], on_progress: ProgressCallback
) -> Mixes:
    """Encode both images of each pair to ``t``, mix, decode; at ``t`` = 0 the images are mixed directly.

    Returns:
        The frames, and the time used: ``t``, or the noisiest time that the model and the grid support.
    """
    if way.deterministic:
        return _along_the_ode(context, way, pairs, t, weights, on_progress)
    t = min(t, float(context.times(way.plan.steps)[0]))
    if t == 0:
        return _untouched(way, pairs, weights)
    eps = SeededNoise(pairs.seeds).prior(torch.empty(len(pairs.a), *context.shape))
    x_t = mixed(context.diffuse(pairs.a, t, eps), context.diffuse(pairs.b, t, eps), weights, way.mix)
    return Mixes(t, _sampled(context, way, pairs, t, x_t, on_progress))


def _untouched(way: Way, pairs: Pairs, weights: list[float]) -> Mixes:
    return Mixes(0.0, mixed(pairs.a, pairs.b, weights, way.mix).cpu())


def _sampled(
    context: ImageStudyContext,
    way: Way,
    pairs: Pairs,
    t: float,
    x_t: Tensor,
    on_progress: ProgressCallback,
    denoiser: Denoiser | None = None,
) -> Tensor:
    """Denoise x_t (P, F, C, H, W) with the sampler, all frames of a pair with the same step noise."""
    count = x_t.shape[1]
    x = context.denoise_from(
        x_t.flatten(0, 1),
        context.times(way.plan.steps, start=t),
        sampler=way.plan.sampler,
        noise=SeededNoise([seed for seed in pairs.seeds for _ in range(count)]),
        cond=_repeated(pairs.cond, len(x_t), count),
        callback=lambda progress: on_progress(progress.index + 1, progress.count),
        denoiser=denoiser,
    )
    return x.cpu().reshape(x_t.shape)


def _repeated(cond: Condition | None, num: int, count: int) -> Condition | None:
    """The first ``num`` rows, each repeated ``count`` times."""
    return None if cond is None else cond.map(lambda value: value[:num].repeat_interleave(count, dim=0))


def _along_the_ode(
    context: ImageStudyContext, way: Way, pairs: Pairs, t: float, weights: list[float], on_progress: ProgressCallback
) -> Mixes:
    """Encode and decode by the ODE, without clipping and in full precision, so that the map is invertible."""
    denoiser: Denoiser = FixedBatchDenoiser(context.module.denoiser("fp32").eval(), _BLOCK)
    low, high = ode_range(denoiser)
    here = max(low, float(context.process.log_snr(torch.tensor([t], dtype=torch.float64))))
    if here >= high - 1e-9:  # nothing is left to encode
        return _untouched(way, pairs, weights)
    t = float(context.process.time_of_log_snr(torch.tensor([here], dtype=torch.float64)))
    steps = math.ceil((way.plan.steps if way.ode else _ODE_STEPS) * (high - here) / (high - low))
    both, both_cond = torch.cat([pairs.a, pairs.b]), _duplicated(pairs.cond)
    latents = invert(denoiser, both, cond=both_cond, log_snr_range=(here, high), num_steps=steps).x
    z = mixed(latents[: len(pairs.a)], latents[len(pairs.a) :], weights, way.mix)
    if not way.ode:
        x_t = context.process.start_std(t) * z
        return Mixes(t, _sampled(context, way, pairs, t, x_t, on_progress, context.unguided))
    cond = _repeated(pairs.cond, *z.shape[:2])
    x = generate(denoiser, z.flatten(0, 1), cond=cond, log_snr_range=(here, high), num_steps=steps).x
    return Mixes(t, x.cpu().reshape(z.shape))


def _duplicated(cond: Condition | None) -> Condition | None:
    return None if cond is None else Condition.join([cond, cond])


class Measures(NamedTuple):
    """Statistics of the frames at one time, averaged over the pairs; see ``measured``."""

    reconstruction_rms: float
    path_length: float
    largest_step_share: float
    departure: float
    legibility: list[float]


def measured(mixes: Tensor, a: Tensor, b: Tensor, legibility: list[float]) -> Measures:
    """Statistics of frames (P, F, C, H, W) between the images ``a`` and ``b`` (P, C, H, W).

    Returns:
        ``reconstruction_rms`` of both ends from the real images, in pixels of [-1, 1]; ``path_length``, the sum of
        the distances of neighbouring frames over the distance of the real images, 1 for the straight line; the
        ``largest_step_share`` of that sum, 1 / (F - 1) if all steps are equal and 1 if the image changes in one step;
        ``departure``, the distance of the middle frame from the mean of the real images over half the distance between
        them: 0 for a double exposure, 1 if it is as far from the mean as the images are.
    """
    x, real = mixes.double(), torch.stack([a, b], dim=1).double()
    reconstruction = (x[:, [0, -1]] - real).square().mean().sqrt()
    steps = (x[:, 1:] - x[:, :-1]).flatten(2).norm(dim=2)  # (P, F - 1)
    across = (real[:, 1] - real[:, 0]).flatten(1).norm(dim=1)
    middle = (x[:, x.shape[1] // 2] - real.mean(1)).flatten(1).norm(dim=1)
    whole = steps.sum(1)
    return Measures(
        float(reconstruction),
        _mean_ratio(whole, across),
        _mean_ratio(steps.max(1).values, whole),
        _mean_ratio(middle, across / 2),
        legibility,
    )


def _mean_ratio(above: Tensor, below: Tensor) -> float:
    """Mean of the ratios over the rows that are not 0 / 0; NaN if all are."""
    rows = below > 1e-9
    return float((above[rows] / below[rows]).mean()) if bool(rows.any()) else math.nan


def study_interpolation(
    context: ImageStudyContext, options: InterpolationOptions, folder: Path, on_progress: ProgressCallback
) -> list[StudyFigure]:
    """``interpolation.png``: pairs at one t; ``coarse_to_fine.png``: the first pair over t."""
    way, weights = way_of(context, options), evenly(options.frames)
    a, b, cond = real_pairs(context, options.pairs, options.requested)
    pairs = Pairs(context.to_x(a), context.to_x(b), cond, context.seeds(options.pairs))
    t = options.t if options.t is not None else matched_times(context, [_DEFAULT_FRACTION])[0]
    times = options.levels if options.levels is not None else matched_times(context, _FRACTIONS)
    levels = sorted({float(level) for level in times}, reverse=True)
    total = 1 + len(levels)

    def part(number: int) -> ProgressCallback:
        return lambda done, count: on_progress(1000 * number + 1000 * done // count, 1000 * total)

    one = interpolate(context, way, pairs, t, weights, part(0))
    row = slice(options.pair - 1, options.pair)
    chosen = Pairs(pairs.a[row], pairs.b[row], None if cond is None else cond.select(row), pairs.seeds[row])
    many = []
    for number, level in enumerate(levels):
        many.append(interpolate(context, way, chosen, level, weights, part(1 + number)))
        on_progress(1000 * (2 + number), 1000 * total)
    legibility = Legibility(context)
    return [
        _pairs_figure(context, way, pairs, one, weights, legibility, folder),
        _levels_figure(context, way, chosen, many, weights, legibility, folder),
    ]


def _measured(context: ImageStudyContext, pairs: Pairs, mixes: Mixes, legibility: Legibility) -> Measures:
    values = legibility(context.finish(mixes.x.flatten(0, 1))).reshape(mixes.x.shape[:2]).mean(0).tolist()
    return measured(mixes.x, pairs.a.cpu(), pairs.b.cpu(), values)


def _row(context: ImageStudyContext, pairs: Pairs, mixes: Mixes, row: int) -> Any:
    ends = [context.finish(x[row : row + 1]) for x in pairs[:2]]
    return np.concatenate([ends[0], context.finish(mixes.x[row]), ends[1]])


def _columns(weights: list[float]) -> list[str]:
    return ["source", "rec.\nw = 0", *(f"w = {weight:.3g}" for weight in weights[1:-1]), "rec.\nw = 1", "source"]


def _frames(rows: int, count: int) -> dict[tuple[int, int], str]:
    return {(row, column): plot_style.ORANGE for row in range(rows) for column in (0, count + 1)}


def _pairs_figure(
    context: ImageStudyContext,
    way: Way,
    pairs: Pairs,
    one: Mixes,
    weights: list[float],
    legibility: Legibility,
    folder: Path,
) -> StudyFigure:
    count, num = len(weights), len(pairs.a)
    at = time_label(context.process, one.t).replace("\n", ", ")
    table = image_grid.Table(
        [_row(context, pairs, one, row) for row in range(num)],
        [f"pair {row + 1}" for row in range(num)],
        _columns(weights),
        f"Real images (framed), encoded to {at}, mixed, decoded  (λ: log-SNR, w: weight of the right one)",
        frames=_frames(num, count),
        gaps=[1, count + 1],
    )
    image_grid.write([table], folder / "interpolation.png")
    numbers = _measured(context, pairs, one, legibility)
    return StudyFigure(
        "interpolation.png",
        "Interpolation of real images",
        f"{_describe_method(way)} At w = 0 and 1 the images are reconstructed with an RMS error of "
        f"{numbers.reconstruction_rms:.2g} (pixels in [-1, 1])"
        + ("; the noise hides the lost details." if not way.deterministic else ", the error of the solver."),
        "x_t(w) = mix(x_t, x_t'; w);  "
        + ("x_t by the ODE" if way.deterministic else "x_t = α x_0 + σ ε, one ε per pair"),
        "Ho et al. 2020, arXiv:2006.11239, fig. 8; `undiffuse.studies.images.interpolation:interpolate`",
        {**_record(way, weights, legibility), "t": one.t, "pairs": num, **numbers._asdict()},
    )


def _levels_figure(
    context: ImageStudyContext,
    way: Way,
    pairs: Pairs,
    many: list[Mixes],
    weights: list[float],
    legibility: Legibility,
    folder: Path,
) -> StudyFigure:
    count = len(weights)
    numbers = [_measured(context, pairs, one, legibility) for one in many]
    table = image_grid.Table(
        [_row(context, pairs, one, 0) for one in many],
        [time_label(context.process, one.t) for one in many],
        _columns(weights),
        "From coarse to fine: the same pair, encoded to every t  (λ: log-SNR, w: weight of the right one)",
        notes=[f"rec. error {row.reconstruction_rms:.2f}\ndeparture {row.departure:.2f}" for row in numbers],
        frames=_frames(len(many), count),
        gaps=[1, count + 1],
    )
    image_grid.write([table], folder / "coarse_to_fine.png")
    return StudyFigure(
        "coarse_to_fine.png",
        "Interpolation from coarse to fine",
        f"{_describe_method(way)} At the bottom, little is encoded, and intermediate frames are double exposures of "
        f"the two; further up larger and larger features are interpolated, {_describe_top(way)}"
        + " At the right edge: the RMS error of the images' reconstructions, and the departure, how far the middle "
        "frame is from the mean of the two images, over half their distance: 0 for a double exposure, 1 or "
        "more for a separate image.",
        "x_t(w) = mix(x_t, x_t'; w) at every t",
        "Ho et al. 2020, arXiv:2006.11239, fig. 9; `undiffuse.studies.images.interpolation:measured`",
        {
            **_record(way, weights, legibility),
            "levels": [{"t": one.t, **row._asdict()} for one, row in zip(many, numbers, strict=True)],
        },
    )


def _describe_top(way: Way) -> str:
    if way.deterministic:
        return "until at the top whole images are interpolated, with both ends still reconstructed."
    return "until at the top no trace of the images is left and, with shared noise, all frames are one new sample."


def _record(way: Way, weights: list[float], legibility: Legibility) -> dict[str, Any]:
    mode = "deterministic" if way.deterministic else "stochastic"
    return {"mode": mode, "mix": way.mix, **way.plan._asdict(), "weights": weights, "legibility_is": legibility.name}


def _describe_method(way: Way) -> str:
    if way.deterministic:
        return (
            f"Both images are encoded along the probability-flow ODE to time t, mixed {way.mix}ly and decoded by "
            f"{way.plan.sampler}, {count_noun(way.plan.steps, 'step')} over the full range; no noise is drawn."
        )
    return (
        f"Both images of a pair get the same noise up to time t, are mixed {way.mix}ly and decoded by "
        f"{way.plan.sampler}, {count_noun(way.plan.steps, 'step')} from t = 1 on, with the same step noise for all "
        "frames of a pair."
    )
