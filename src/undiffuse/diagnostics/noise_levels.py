"""Residual signal at the noisy end of the process (prior mismatch), and the error at every noise level.

At t = 1 a process yields x_1 = alpha x_0 + sigma eps, and sampling starts from N(0, p^2) with its ``prior_std`` p. The
mismatch is the prior term of the variational bound, per dimension

    L_T = KL(N(alpha x_0, sigma^2) || N(0, p^2)) = 1/2 (alpha^2 x_0^2 / p^2 + sigma^2 / p^2 - 1 - ln(sigma^2 / p^2)).

A linear schedule of 200 steps from 1e-4 to 0.02 leaves 36 % of the signal's amplitude and costs 0.10 bits per
dimension at |x_0| = 1; one of 1000 steps leaves 0.6 %.

The error at each level, ``losses.levels``, is compared with that of the optimal predictor from single pixels,

    e(lambda) = 1/D sum_i v_i SNR / (1 + v_i SNR),     v_i the pixel's variance over the training set,

and the exact denoiser's error of x_0 never increases with the SNR.

Source: Ho et al. 2020, arXiv:2006.11239, eq. 5; Guo, Shamai and Verdu 2005, "Mutual Information and Minimum Mean-Square
Error in Gaussian Channels"; Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed",
arXiv:2305.08891.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES
from undiffuse.core.terminal_noise import options_ending_in_noise, terminal_noise
from undiffuse.diagnostics.findings import Finding, percent
from undiffuse.diagnostics.run_context import RunContext
from undiffuse.errors import UsageError
from undiffuse.losses.levels import loss_by_level
from undiffuse.models.base import denoising
from undiffuse.samplers.noise import SeededNoise
from undiffuse.wording import count_noun

#: Negligible fraction of the signal's amplitude, and negligible bits per dimension and in total.
_SIGNAL, _BITS, _TOTAL_BITS = 0.05, 1e-3, 0.05
_MAX_END_LOG_SNR = -6.6  # the log-SNR at which both are negligible
_DEVIATION = 0.5  # typical for images in [-1, 1]
_LEVELS, _MAX_LOG_SNR = 9, 6.0  # levels evenly spaced over log-SNRs -6 ... 6, within the trained range
_ITEMS, _FOR_VARIANCE = 48, 2000


def prior(context: RunContext) -> Iterable[Finding]:
    """Whether the process ends in the noise that sampling starts from."""
    process = denoising(context.model.module, "the noise end").process
    options = context.config["system"].get("process")
    options = options if isinstance(options, Mapping) else None
    yield assess_prior(process, math.prod(context.shape), options, *_spread(context))


def _spread(context: RunContext) -> tuple[float, float]:
    """Standard deviation of the data about its mean, and RMS of the mean; typical values if the data is unavailable."""
    try:
        x_0 = _to_x(context.real(_FOR_VARIANCE)).flatten(1).double()
    except UsageError:
        return _DEVIATION, _DEVIATION
    return float(x_0.var(0, correction=0).mean().sqrt()), float(x_0.mean(0).square().mean().sqrt())


def prior_mismatch(process: Process, x_0: float = 1.0) -> tuple[float, float]:
    """(alpha / sqrt(alpha^2 + sigma^2) at t = 1, the signal's part of x_1; L_T in bits per dimension at ``x_0``)."""
    end = terminal_noise(process)
    ratio = (end.sigma / end.std) ** 2
    nats = 0.5 * ((end.alpha * x_0 / end.std) ** 2 + ratio - 1 - math.log(ratio))
    return end.signal, nats / math.log(2)


def assess_prior(
    process: Process,
    num_dims: int = 784,
    written: Mapping[str, Any] | None = None,
    deviation: float = _DEVIATION,
    mean: float = _DEVIATION,
) -> Finding:
    """The finding of ``prior``; for points a large mismatch per dimension may still be negligible in total.

    Args:
        written: name and options of the process, used to suggest better options.
        deviation, mean: of the data; if both are reproduced despite the mismatch, it is only a note.
    """
    signal, bits = prior_mismatch(process)
    details = {"signal_left": signal, "bits_per_dim": bits}
    text = f"{percent(signal)} of the signal's amplitude is left at t = 1; L_T = {bits:.2g} bits/dim at |x_0| = 1"
    if (signal <= _SIGNAL and bits <= _BITS) or bits * num_dims <= _TOTAL_BITS:
        return Finding("ok", "the process ends in noise", text, details=details)
    details |= {"log_snr": (end := terminal_noise(process)).log_snr}
    harmless = not end.is_noise() and not end.biases_samples(deviation, mean)
    return Finding(
        "note" if harmless else "problem" if bits > 0.01 else "warning",
        "signal is left at the noisy end",
        f"{text}: the model never saw the pure noise that sampling starts from. {end.consequence(deviation)}",
        f"train with a process that ends in noise: {' or '.join(_overrides(written)) or 'ddpm_cosine, or flow'}",
        details,
    )


def _overrides(written: Mapping[str, Any] | None) -> list[str]:
    """Configuration overrides with which this process ends in noise."""
    if written is None or written.get("name") not in PROCESSES:
        return []
    options = {key: value for key, value in written.items() if key != "name"}
    found = options_ending_in_noise(PROCESSES[written["name"]], options, limit=_MAX_END_LOG_SNR)
    return [f"system.process.{key}={value:g}" for key, value in found.items()]


@dataclass(frozen=True)
class LevelErrors:
    """Errors of eps-hat at each level, ``(L, B)``, and those of the per-pixel predictor, ``(L,)``."""

    log_snr: Tensor
    training: Tensor
    held_out: Tensor | None
    trivial: Tensor


def levels(context: RunContext) -> Iterable[Finding]:
    """Whether the error is too large at some noise level, or smaller on training images than on held-out ones."""
    system = denoising(context.model.module, "an error by noise level")
    ends = system.process.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    low = max(system.log_snr_range[0], ends[0], -_MAX_LOG_SNR)
    high = min(system.log_snr_range[1], ends[1], _MAX_LOG_SNR)
    if not low < high:
        raise UsageError(f"the model was trained only on log-SNRs from {low:.3g} to {high:.3g}")
    log_snr = torch.linspace(low, high, _LEVELS, dtype=torch.float64)
    training = _errors(context, log_snr, held_out=False)
    held_out = _errors(context, log_snr, held_out=True) if len(context.data[1]) >= 2 else None
    variance = _to_x(context.real(_FOR_VARIANCE)).flatten(1).double().var(0, correction=0)
    yield from assess_levels(LevelErrors(log_snr, training, held_out, trivial_error(variance, log_snr)))


def _errors(context: RunContext, log_snr: Tensor, held_out: bool) -> Tensor:
    system = denoising(context.model.module, "an error by noise level")
    batch = context.batch(_ITEMS, held_out).to(system.device)
    noise = SeededNoise(range(context.seed, context.seed + len(batch)))
    return loss_by_level(system, batch.x_0, log_snr, noise, Condition(label=batch.given.label))


def _to_x(items: Tensor) -> Tensor:
    return items.float() / 127.5 - 1 if items.dtype == torch.uint8 else items.float()


def trivial_error(variance: Tensor, log_snr: Tensor) -> Tensor:
    """(L,) error of eps-hat of the optimal predictor from single pixels with variances (D,)."""
    signal = variance.double() * torch.exp(log_snr.double())[:, None]
    return (signal / (1 + signal)).mean(1)


def assess_levels(errors: LevelErrors) -> Iterable[Finding]:
    """A gap to held-out images, or else levels worse than trivial and an error of x_0 that increases with the SNR."""
    shown = errors.held_out if errors.held_out is not None else errors.training
    mean, deviation = shown.mean(1), shown.std(1) / math.sqrt(shown.shape[1])
    details: dict[str, Any] = {
        "log_snr": errors.log_snr.tolist(),
        "error": mean.tolist(),
        "trivial": errors.trivial.tolist(),
        "training": errors.training.mean(1).tolist(),
        "pictures": shown.shape[1],  # data
    }
    if (gap := _gap(errors, details)) is not None:
        yield gap  # other deviations on held-out images are consequences of it
        return
    found = [*_worse(errors, mean, deviation, details), *_rising(errors, mean, details)]
    best = float((mean / errors.trivial).min())
    text = f"{count_noun(shown.shape[1], 'item')} at {len(mean)} levels, down to {percent(best)} of a per-pixel guess"
    yield from found or [Finding("ok", "error by noise level", text, details=details)]


def _worse(errors: LevelErrors, mean: Tensor, deviation: Tensor, details: dict[str, Any]) -> Iterable[Finding]:
    """Levels at which the error exceeds that of the per-pixel predictor by more than three standard errors."""
    worse = (mean - 3 * deviation > 1.05 * errors.trivial).nonzero()[:, 0].tolist()
    if not worse:
        return
    factors = (mean / errors.trivial)[worse]
    clean = bool((errors.log_snr[worse] > -2).any())
    where = ", ".join(f"{float(errors.log_snr[i]):+.1f}" for i in worse)
    yield Finding(
        "warning" if clean else "note",
        "worse than a guess at some noise levels",
        f"at log-SNR {where} the error is up to {float(factors.max()):.2g} times that of the best per-pixel guess",
        "train on, or sample these levels more often: another system.weighting or system.time_density"
        if clean
        else "these levels are almost pure noise; system.sampling.clip_x_0=true (default) protects samples from it, "
        "and predicting x0, v or flow instead of eps avoids it",
        details,
    )


def _rising(errors: LevelErrors, mean: Tensor, details: dict[str, Any]) -> Iterable[Finding]:
    """Levels whose error of x_0 is larger than at the next noisier level."""
    x_error = mean / torch.exp(errors.log_snr)
    rises = [i for i in range(1, len(x_error)) if x_error[i] > 1.1 * x_error[i - 1]]
    if not rises:
        return
    where = ", ".join(f"{float(errors.log_snr[i - 1]):+.1f} to {float(errors.log_snr[i]):+.1f}" for i in rises)
    yield Finding(
        "warning",
        "error of x_0 rises where noise falls",
        f"from log-SNR {where}; the exact denoiser's never does",
        "train more on the levels between: another system.weighting or system.time_density that reaches them",
        details,
    )


def _gap(errors: LevelErrors, details: dict[str, Any]) -> Finding | None:
    """A larger error on held-out images than on training images at some level."""
    if errors.held_out is None or min(errors.training.shape[1], errors.held_out.shape[1]) < 8:
        return None
    training, held_out = errors.training, errors.held_out
    gap, ratio = held_out.mean(1) - training.mean(1), held_out.mean(1) / training.mean(1).clamp_min(1e-12)
    spread = (held_out.var(1) / held_out.shape[1] + training.var(1) / training.shape[1]).sqrt()
    wide = ((ratio > 1.2) & (gap > 4 * spread)).nonzero()[:, 0].tolist()
    if not wide:
        return None
    at = max(wide, key=lambda i: float(ratio[i]))
    return Finding(
        "problem" if float(ratio[at]) > 2 else "warning",
        "training images are memorised",
        f"at log-SNR {float(errors.log_snr[at]):+.1f} the error on held-out images is {float(ratio[at]):.3g} times "
        f"that on training images ({float(gap[at] / spread[at]):.0f} standard errors)",
        "train for fewer num_images, on more images, with dropout or a smaller network",
        details | {"held_out_over_training": ratio.tolist()},
    )
