"""Likelihoods of held-out data: exact by the probability-flow ODE, and three forms of the variational bound.

For images every number is in bits per dimension, for a probability over the 256 levels. With the exact denoiser the
ODE's number and the continuous bound are equal, and the bound on a grid is above them. With a network they belong to
three different models (the ODE, the SDE, the chain) with different ends; each result states its ends and its decoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.process import Process
from undiffuse.evaluation.base import Protocol, Result, evenly_spaced_subset
from undiffuse.evaluation.context import EvaluationContext, need_held_out, need_images
from undiffuse.losses.continuous import ContinuousBound, continuous_bound
from undiffuse.losses.random_bound import random_bound
from undiffuse.losses.variational import Bound, Normal, variational_bound
from undiffuse.models.base import DenoisingModel, denoising
from undiffuse.samplers.base import FixedBatchDenoiser
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.inversion import ATOL, RTOL, ode_range
from undiffuse.samplers.likelihood import Likelihood, dequantise, log_likelihood
from undiffuse.samplers.noise import SeededNoise

_ROWS = 64  # batch size of the network for a bound
_ODE_ROWS = {"image": 32, "points": 1024}  # samples integrated together, until the last has finished
_MAX_EXACT_DIMS = 16  # with more dimensions the divergence is estimated


def nll(context: EvaluationContext) -> list[Result]:
    """-log p of held-out data by the probability-flow ODE: bits per dimension for images, nats per point."""
    protocol, is_image = context.protocol, context.generates_images
    items = _held_out(context, "nll", protocol.likelihood_images if is_image else protocol.num)
    exact = math.prod(context.model.module.shape) <= _MAX_EXACT_DIMS
    rows = min(_ODE_ROWS[context.model.module.space.kind], len(items))
    denoiser = _denoiser(context, rows)
    parts = []
    for start in range(0, len(items), rows):
        x_0, noise = items[start : start + rows].to(context.model.module.device), _noise(protocol, start, rows, items)
        data = dequantise(x_0, noise) if is_image else x_0
        probes: Any = "exact" if exact else protocol.likelihood_probes
        report = partial(_report, context, start, len(x_0), len(items))
        parts.append(log_likelihood(denoiser, data, probes=probes, noise=noise, on_progress=report))
    entries = _ode_protocol(context, parts, exact) | {"dequantisation": "uniform" if is_image else "none"}
    values = torch.cat([part.bits_per_dim() if is_image else -part.nats for part in parts])
    return [_result("nll", values, entries, "bits/dim" if is_image else "nats", _ode_details(parts, is_image))]


def _report(context: EvaluationContext, start: int, count: int, total: int, fraction: float) -> None:
    """Report the ``fraction`` of the solver's work that is done for ``count`` items from ``start`` on."""
    context.observer.progress(start + fraction * count, total)


def _ode_protocol(context: EvaluationContext, parts: Sequence[Likelihood], exact: bool) -> dict[str, Any]:
    protocol, (noisy, clean) = context.protocol, parts[0].log_snr_range
    probes = "exact" if exact else f"{protocol.likelihood_probes} Rademacher, fixed along a trajectory"
    return {
        "images": sum(len(part.nats) for part in parts),
        **_common_entries(context),
        "solver": "Dormand-Prince 5(4) in log-SNR, a step size per sample",
        "rtol": RTOL,
        "atol": ATOL,
        "nfe": round(float(torch.cat([part.nfe for part in parts]).double().mean()), 1),
        "divergence": probes,
        "clean_log_snr": clean,
        "clean_noise_std": math.exp(-clean / 2),
        "noisy_log_snr": noisy,
        "precision": "fp32 network, float64 state and log-density",
    }


def _ode_details(parts: Sequence[Likelihood], is_image: bool) -> dict[str, Any]:
    """The variance due to the probes, and the mean square of the latents (1 for N(0, I))."""
    latents = torch.cat([part.latent.double().flatten(1).cpu() for part in parts])
    details: dict[str, Any] = {"latent_mean_square": float((latents**2).mean())}
    variances = [part.probe_variance for part in parts if part.probe_variance is not None]
    if variances:
        variance = torch.cat(variances).cpu()  # of a single probe; divided by the number of probes, of their mean
        unit = parts[0].num_dims * math.log(2) if is_image else 1.0
        details["variance_of_one_probe"] = float(variance.mean()) / unit**2
    return details


def vlb(context: EvaluationContext) -> list[Result]:
    """The variational bound on held-out images: L_T, the sum of L_t, L_0 and their total, in bits per dimension."""
    protocol, options = context.protocol, _bound_options(context, "vlb")
    items = _held_out(context, "vlb", protocol.bound_images)

    def bound(denoiser: Denoiser, x_0: Tensor, times: Tensor, normal: Normal) -> Bound:
        return variational_bound(denoiser, x_0, times, normal, **options)

    bounds = _on_grid(context, items, bound)
    return _bound_results("vlb", bounds, _grid_protocol(context, bounds) | {"draws_a_term": 1})


def vlb_random(context: EvaluationContext) -> list[Result]:
    """An unbiased estimate of the same bound from one random term per image, on many images."""
    protocol, options = context.protocol, _bound_options(context, "vlb_random")
    items = _held_out(context, "vlb_random", protocol.bound_random_images)

    def bound(denoiser: Denoiser, x_0: Tensor, times: Tensor, normal: Normal) -> Bound:
        return random_bound(denoiser, x_0, times, normal, num_draws=protocol.bound_random_terms, **options)

    bounds = _on_grid(context, items, bound)
    drawn = f"{protocol.bound_random_terms} an image, in proportion to their share of the log-SNR"
    return _bound_results("vlb_random", bounds, _grid_protocol(context, bounds) | {"random_terms": drawn})


def continuous(context: EvaluationContext) -> list[Result]:
    """The bound in continuous time, an integral over the log-SNR: bits per dimension for images, nats per point."""
    protocol, is_image = context.protocol, context.generates_images
    items = _held_out(context, "continuous_bound", protocol.bound_images if is_image else protocol.num)
    rows = _ROWS if is_image else _ODE_ROWS["points"]
    denoiser = _denoiser(context, min(rows, len(items)))
    ends = ode_range(denoiser)
    decoder: Any = "levels" if is_image else "density"
    bounds = []
    for start in range(0, len(items), rows):
        x_0 = items[start : start + rows].to(context.model.module.device)
        normal = _noise(protocol, start, rows, items).numbered
        bounds.append(continuous_bound(denoiser, x_0, normal, ends, num_draws=protocol.bound_draws, decoder=decoder))
        context.observer.progress(start + len(x_0), len(items))
    entries = {
        "images": len(items),
        **_common_entries(context),
        "log_snrs_a_picture": f"{protocol.bound_draws}, stratified evenly over the log-SNR",
        "clean_log_snr": ends[1],
        "noisy_log_snr": ends[0],
        "decoder": _describe_decoder(bounds[0].decoder_std)
        if is_image
        else "entropy of the noise left at the clean end",
        "precision": "fp32 network, float64 sums",
    }
    unit = "bits/dim" if is_image else "nats"
    return [
        _result(name, bounds[0].bits_per_dim(nats) if is_image else nats, entries, unit)
        for name, nats in _concatenate([_parts("continuous_bound", bound, bound.diffusion) for bound in bounds]).items()
    ]


def _held_out(context: EvaluationContext, metric: str, count: int) -> Tensor:
    """x_0 of ``count`` held-out items, float32 on the CPU."""
    need_held_out(context, metric)
    items = evenly_spaced_subset(context.held_out, count)
    return items.float() / 127.5 - 1 if items.dtype == torch.uint8 else items


def _model(context: EvaluationContext) -> DenoisingModel:
    return denoising(context.model.module, "a likelihood or a bound")


def _denoiser(context: EvaluationContext, rows: int) -> FixedBatchDenoiser:
    return FixedBatchDenoiser(_model(context).denoiser("fp32"), rows)


def _noise(protocol: Protocol, start: int, rows: int, items: Tensor) -> SeededNoise:
    """Noise in which item i has the seed + i, independent of the batch."""
    return SeededNoise(range(protocol.seed + start, protocol.seed + min(start + rows, len(items))))


def _common_entries(context: EvaluationContext) -> dict[str, Any]:
    return {
        "split": "held out",
        "data_fingerprint": context.held_out.fingerprint,
        "labels": "none",
        "weights": context.model.weights,
    }


def _bound_options(context: EvaluationContext, metric: str) -> dict[str, Any]:
    """Variance and decoder; a model with a learned variance uses it for both."""
    need_images(context, metric)  # the decoder needs 256 levels
    model = _model(context)
    if context.protocol.bound_variance is not None:
        variance = context.protocol.bound_variance
    elif _learns_variance(context):
        variance = "learned"
    else:
        variance = "beta" if model.process.knots is not None else "beta_tilde"
    return {"variance": variance, "decoder": "reverse" if variance == "learned" else "snr"}


@torch.no_grad()
def _learns_variance(context: EvaluationContext) -> bool:
    model = _model(context)
    x = torch.zeros(1, *model.shape, device=model.device)
    denoised: Denoised = model.denoiser("fp32")(x, torch.full((1,), 0.5, dtype=torch.float64, device=model.device))
    return denoised.variance_mix is not None


def _on_grid(
    context: EvaluationContext, items: Tensor, bound: Callable[[Denoiser, Tensor, Tensor, Normal], Bound]
) -> list[Bound]:
    """The bound of all items on the model's grid, in chunks."""
    model = _model(context)
    denoiser = _denoiser(context, min(_ROWS, len(items)))
    times = bound_grid(model.process, model.log_snr_range, context.protocol.bound_steps).to(model.device)
    bounds = []
    for start in range(0, len(items), 4 * _ROWS):
        noise = _noise(context.protocol, start, 4 * _ROWS, items)
        x_0 = items[start : start + 4 * _ROWS].to(model.device)
        bounds.append(bound(denoiser, x_0, times, noise.numbered))
        context.observer.progress(start + len(x_0), len(items))
    return bounds


def _grid_protocol(context: EvaluationContext, bounds: Sequence[Bound]) -> dict[str, Any]:
    model = _model(context)
    first = bounds[0]
    return {
        "images": sum(len(bound.prior) for bound in bounds),
        **_common_entries(context),
        "terms": len(first.times),
        "grid": "the chain's own knots" if model.process.knots is not None else "even in log-SNR",
        "t_1": float(first.times[0]),
        "variance": first.variance,
        "decoder": _describe_decoder(first.decoder_std),
        "precision": "fp32 network, float64 sums",
    }


def _describe_decoder(std: float | None) -> str:
    return f"discretised Gaussian over 256 levels, std {'learned' if std is None else f'{std:.5g}'}"


def _bound_results(name: str, bounds: Sequence[Bound], entries: dict[str, Any]) -> list[Result]:
    parts = _concatenate([_parts(name, bound, bound.terms.sum(1)) for bound in bounds])
    return [_result(part, bounds[0].bits_per_dim(nats), entries, "bits/dim") for part, nats in parts.items()]


def _concatenate(chunks: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _parts(name: str, bound: Bound | ContinuousBound, terms: Tensor) -> dict[str, Tensor]:
    return {
        name: bound.total,
        f"{name}_prior": bound.prior,
        f"{name}_terms": terms,
        f"{name}_decoder": bound.decoder,
    }


def _result(
    name: str, values: Tensor, entries: dict[str, Any], unit: str, details: dict[str, Any] | None = None
) -> Result:
    """The mean over items, with its standard error."""
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
    return Result(name, float(values.mean()), unit, error, "lower", entries, details or {})


def bound_grid(process: Process, log_snr_range: tuple[float, float], num_knots: int) -> Tensor:
    """Ascending times of the bound: the knots of a chain, or ``num_knots`` uniform in log-SNR up to the noisiest."""
    if process.knots is not None:
        return process.knots[1:]
    inner = time_grid("log_snr", process, num_knots, log_snr_range)[:-1].flip(0)
    last = process.time_of_log_snr(torch.tensor([log_snr_range[0]], dtype=torch.float64))
    return inner if float(inner[-1]) >= float(last) else torch.cat([inner, last])
