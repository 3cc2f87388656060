"""Samples that share one x_t: at several t a partly denoised sample is completed several times with different noise.

What the final images have in common was determined at time t, what differs was not. The sampler has to be stochastic:
with a deterministic one all continuations of x_t are equal.

Source: Ho et al. 2020, arXiv:2006.11239, sec. 4.3 and fig. 7.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.errors import UsageError
from undiffuse.observer import ProgressCallback
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import Progress
from undiffuse.samplers.noise import SeededNoise
from undiffuse.studies.images.context import ClassOptions, ImageArray, ImageStudyContext, Plan, sampling_plan
from undiffuse.studies.images.legibility import Legibility
from undiffuse.studies.images.times import Fractions, matched_times, time_label, visible
from undiffuse.studies.plots import image_grid
from undiffuse.studies.plots.plot_style import StudyFigure

#: Fractions of DDPM's steps, by the noise there; see ``images.matched_times``.
_FRACTIONS = (1.0, 0.8, 0.6, 0.5, 0.4, 0.25)


class SharedLatentOptions(ClassOptions):
    """Options of the study ``shared-latent``.

    Args:
        t: one or more times at which x_t is shared; by default those with the noise of DDPM's chain after 100, 80, 60,
            50, 40 and 25% of its steps.
        num: samples whose x_t is used.
        siblings: images generated from each x_t.
        rows: samples shown.
        sampler: a stochastic sampler; by default the model's if it is stochastic, else ancestral.
        steps: of the full grid from t = 1.
        class_name: of all samples; by default cycling through all classes.
        no_class: sample without a class.
    """

    t: Fractions | None = None
    num: Annotated[int, Field(ge=1)] = 4
    siblings: Annotated[int, Field(ge=2, le=32)] = 8
    rows: Annotated[int, Field(ge=1, le=8)] = 2
    sampler: str | None = None
    steps: Annotated[int, Field(ge=2)] | None = None


class Family(NamedTuple):
    """``x_t`` (N, C, H, W) of N samples at time ``t``, and k ``children`` (N, k, C, H, W) in [-1, 1] of each."""

    t: float
    x_t: Tensor
    children: Tensor


def check_plan(plan: Plan) -> Plan:
    """Check that the sampler is stochastic, since children of one x_t are otherwise all equal.

    Raises:
        UsageError: if the sampler is deterministic.
    """
    if not make_sampler(plan.sampler).stochastic:
        raise UsageError(
            f"a shared latent needs a stochastic sampler, got {plan.sampler!r}, whose images from one x_t are all "
            "equal; use ancestral, ddim:eta=1 or dpmpp_2m_sde"
        )
    return plan


def latents_at(
    context: ImageStudyContext,
    plan: Plan,
    levels: list[float],
    cond: Condition | None,
    num: int,
    on_progress: ProgressCallback,
) -> dict[float, Tensor]:
    """x_t of ``num`` samples at each of the levels, all from one run from pure noise."""
    grid = context.times(plan.steps)
    inner = [level for level in levels if 0 < level < float(grid[0])]
    times = torch.tensor(sorted({*grid.tolist(), *inner}, reverse=True), dtype=torch.float64)
    noise = context.noise(num)
    start = context.process.start_std(float(times[0])) * noise.prior(torch.empty(num, *context.shape))
    found = {level: start for level in levels if level >= float(times[0])}

    def record(progress: Progress) -> None:
        reached = float(times[progress.index + 1])
        if reached in levels:
            found[reached] = progress.x.cpu()
        on_progress(progress.index + 1, progress.count)

    context.denoise_from(start.to(context.device), times, sampler=plan.sampler, noise=noise, cond=cond, callback=record)
    return found


def family(
    context: ImageStudyContext,
    plan: Plan,
    t: float,
    x_t: Tensor,
    cond: Condition | None,
    siblings: int,
    on_progress: ProgressCallback,
) -> Family:
    """``siblings`` images from each x_t (N, C, H, W), each with different step noise."""
    num = len(x_t)
    rows = torch.arange(num).repeat_interleave(siblings)
    seeds = context.seeds(num * siblings, first=num)  # the first ``num`` seeds belong to the parents
    children = context.denoise_from(
        x_t[rows].to(context.device),
        context.times(plan.steps, start=t),
        sampler=plan.sampler,
        noise=SeededNoise(seeds),
        cond=cond.select(rows.to(context.device)) if cond is not None else None,
        callback=lambda progress: on_progress(progress.index + 1, progress.count),
    )
    return Family(t, x_t, children.cpu().reshape(num, siblings, *context.shape))


def deviation(children: Tensor) -> float:
    """Pixel standard deviation among siblings (N, k, C, H, W), in units of [-1, 1]: root of the mean variance."""
    return float(children.double().var(dim=1).mean().sqrt())


def study_shared_latent(
    context: ImageStudyContext, options: SharedLatentOptions, folder: Path, on_progress: ProgressCallback
) -> list[StudyFigure]:
    """``shared_latent.png``: per t a row with x_t, the images generated from it, and their mean and deviation."""
    plan = check_plan(sampling_plan(context, options.sampler, options.steps, stochastic=True))
    times = options.t if options.t is not None else matched_times(context, _FRACTIONS)
    noisiest = float(context.times(plan.steps)[0])
    levels = sorted({min(float(t), noisiest) for t in times}, reverse=True)
    if levels[-1] == 0:
        raise UsageError("at t = 0 there is no noise to remove; give times above 0")
    cond = context.condition(options.num, options.requested)
    total, shares = len(levels) + 1, 1000

    def part(number: int) -> ProgressCallback:
        return lambda done, count: on_progress(number * shares + shares * done // count, total * shares)

    latents = latents_at(context, plan, levels, cond, options.num, part(0))
    families = [
        family(context, plan, level, latents[level], cond, options.siblings, part(1 + number))
        for number, level in enumerate(levels)
    ]
    legibility = Legibility(context)
    numbers = [_numbers(context, entry, legibility) for entry in families]
    tables = [_table(context, families, row, numbers) for row in range(min(options.rows, options.num))]
    image_grid.write(tables, folder / "shared_latent.png")
    return [_study_figure(plan, options, numbers, legibility)]


def _numbers(context: ImageStudyContext, one: Family, legibility: Legibility) -> dict[str, Any]:
    log_snr = float(context.process.log_snr(torch.tensor([one.t], dtype=torch.float64)))
    images = context.finish(one.children.flatten(0, 1))
    row: dict[str, Any] = {"t": one.t, "log_snr": log_snr, "deviation": deviation(one.children)}
    labels = legibility.labels(images)
    if labels is not None:
        row["same_class_share"] = same_class(labels.reshape(one.children.shape[:2]))
    return row


def same_class(labels: Any) -> float:
    """Fraction of the pairs of siblings with the same predicted class, from labels (N, k)."""
    equal = labels[:, :, None] == labels[:, None, :]
    k = labels.shape[1]
    return float((equal.sum((1, 2)) - k).sum() / (len(labels) * k * (k - 1)))


def _table(
    context: ImageStudyContext, families: list[Family], row: int, numbers: list[dict[str, Any]]
) -> image_grid.Table:
    rows = []
    for one in families:
        children = one.children[row]
        latent = visible(context.process, one.x_t[row : row + 1], one.t)
        mean = context.finish(children.mean(0, keepdim=True))
        rows.append(np.concatenate([latent, context.finish(children), mean, _spread(children)]))
    count = families[0].children.shape[1]
    above = [""] * count
    above[(count - 1) // 2] = "generated from that x_t with different noise"
    return image_grid.Table(
        rows,
        [time_label(context.process, entry.t) for entry in families],
        ["x_t", *above, "mean", "deviation"],
        f"Latent {row + 1}  (λ: log-SNR)",
        [_note(entry) for entry in numbers] if row == 0 else [],
        gaps=[1, count + 1],
    )


def _spread(children: Tensor) -> ImageArray:
    """Standard deviation among siblings (k, C, H, W) as one image: black for none, white for 1 or more."""
    spread: ImageArray = (children.std(dim=0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()[None]
    return spread


def _note(entry: dict[str, Any]) -> str:
    agree = f"\nsame class {entry['same_class_share']:.0%}" if "same_class_share" in entry else ""
    return f"deviation {entry['deviation']:.2f}{agree}"


def _study_figure(
    plan: Plan, options: SharedLatentOptions, numbers: list[dict[str, Any]], legibility: Legibility
) -> StudyFigure:
    agree = (
        f", and how often two siblings are assigned the same class by the {legibility.extractor.name} classifier"
        if legibility.classifies
        else ""
    )
    return StudyFigure(
        "shared_latent.png",
        "Samples that share one x_t",
        f"Each row starts from one x_t (left) and completes it {options.siblings} times with different noise "
        f"({plan.sampler}, "
        f"{plan.steps} steps from t = 1 on). A deterministic sampler would give equal images, so a stochastic "
        "one is used. From pure noise nothing is shared; further down, first the kind of object and its pose, then "
        "everything except details. Right: the mean of the siblings of the row, which shows what they share, and their "
        "standard deviation, which shows where they differ (white: 1 or more, of pixels in [-1, 1]). The numbers at "
        "the right edge are over all "
        f"{options.num} latents: the deviation{agree}.",
        "x_0^(k) ~ p(x_0 | x_t), one x_t per row;  deviation = sqrt(mean over pixels of Var_k x_0^(k))",
        "Ho et al. 2020, arXiv:2006.11239, fig. 7; `undiffuse.studies.images.shared_latent:family`",
        {**plan._asdict(), "num": options.num, "siblings": options.siblings, "levels": numbers},
    )
