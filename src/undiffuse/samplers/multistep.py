"""Multistep samplers: fast because they reuse the denoiser's values of earlier steps.

With l = lambda / 2 and h = l_s - l_t every process has the same exact step of the probability-flow ODE

    x_s = (sigma_s / sigma_t) x_t + sigma_s int_{l_t}^{l_s} exp(l) x_0-hat(l) dl,

and the methods differ in the polynomial through known values of x_0-hat that replaces it. The memory of each sample
is its own (times of NaN mark empty places), so samples may be on different grids and begin at any time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.core.process import Process
from undiffuse.core.rows import per_row, where_rows
from undiffuse.errors import UsageError
from undiffuse.samplers.ancestral import finalize
from undiffuse.samplers.base import Memory, Sampler, Steps
from undiffuse.samplers.noise import NoiseSource
from undiffuse.samplers.ode import extrapolated_x_0, no_previous_x_0
from undiffuse.samplers.sde import brownian_noise


def _sde_step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
    process, (t, s) = denoiser.process, steps[:2]
    x_0 = denoiser(x, t).x_0
    guess, memory = extrapolated_x_0(process, x_0, t, s, memory)
    bridge = process.bridge(s, t)
    drawn = brownian_noise(process, steps, noise, x)
    mean = per_row(bridge.c_t, x) * x + per_row(bridge.c_0, x) * guess
    return finalize(steps, mean + per_row(bridge.var.sqrt(), x) * drawn, x_0), memory


def dpmpp_2m_sde() -> Sampler:
    """SDE-DPM-Solver++(2M), midpoint form: ancestral sampling with x_0-hat extrapolated as ``dpmpp_2m`` does.

    x_s = c_t x_t + c_0 (x_0-hat + (h / 2 h_prev) (x_0-hat - x_0-hat_prev)) + sqrt(var) z, with c_t, c_0 and var of the
    bridge.

    Note:
        Order 2 in distribution; the noise is an increment of each seed's Brownian path.
    Source: Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, sec. 6 and appendix B.
    """
    return Sampler(
        "dpmpp_2m_sde",
        _sde_step,
        order=2,
        max_nfe_per_step=1,
        stochastic=True,
        source="arXiv:2211.01095",
        init=no_previous_x_0,
        needs_brownian=True,
    )


def unipc(order: int = 2, variant: str = "bh2", lower_order_final: int = 1) -> Sampler:
    """UniPC with data prediction: a step of order p, which the next step's own evaluation then corrects for free.

    Args:
        order: p, 2 or 3; the first steps of a sample take the order that its memory allows.
        variant: B(h), the weight of the first differences: ``bh1`` (h) or ``bh2`` (exp(h) - 1).
        lower_order_final: 1 lowers the order towards the last step, which is more stable with few steps; 0 does not.
    Raises:
        UsageError: another order or variant.
    Note:
        The correction lifts the inner steps to order p + 1, which is what one measures without
        ``lower_order_final``; but with p = 3 the first two steps are of lower order. Order 2 where the last is lowered.
    Source: Zhao et al. 2023, "UniPC", arXiv:2302.04867, algorithms 5-8 and sec. 3.3.
    """
    if order not in (2, 3) or variant not in ("bh1", "bh2") or lower_order_final not in (0, 1):
        raise UsageError(
            "unipc needs order=2 or 3, variant=bh1 or bh2, lower_order_final=0 or 1, got "
            f"order={order}, variant={variant}, lower_order_final={lower_order_final}"
        )
    p = order

    def init(x: Tensor) -> Memory:
        times = torch.full((len(x), p), torch.nan, dtype=torch.float64, device=x.device)
        taken = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return torch.zeros_like(x), taken, times, *(torch.zeros_like(x) for _ in range(p))

    def step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
        process, (t, s) = denoiser.process, steps[:2]
        x_before, taken, times, *known = memory
        x_0 = denoiser(x, t).x_0
        better = _move(process, x_before, times[:, 0], t, taken, times, known, variant, at_end=x_0)
        x = where_rows(taken > 0, better, x)
        times, known = torch.cat([t[:, None], times[:, :-1]], dim=1), [x_0, *known[:-1]]
        taken = _order(process, steps, times, p, bool(lower_order_final))
        moved = _move(process, x, t, s, taken, times, known, variant)
        moved = where_rows(process.sigma(s) > 0, moved, x_0)
        # a step from no signal at all has no slope at its start, so there is nothing to correct it by
        taken = torch.where(torch.isfinite(process.log_snr(t)), taken, 0)
        return finalize(steps, moved, x_0), (x, taken, times, *known)

    stated = min(p, 2) if lower_order_final else p
    return Sampler("unipc", step, stated, max_nfe_per_step=1, stochastic=False, source="arXiv:2302.04867", init=init)


def _order(process: Process, steps: Steps, times: Tensor, p: int, lower_order_final: bool) -> Tensor:
    """The order of each sample's next step: at most its number of x_0-hat at finite log-SNR, ``(B,)`` int64."""
    have = torch.isfinite(process.log_snr(times)).long().cumprod(1).sum(1).clamp(min=1)
    return torch.minimum(have, steps.count - steps.index) if lower_order_final else have


def _move(
    process: Process,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    order: Tensor,
    times: Tensor,
    known: Sequence[Tensor],
    variant: str,
    at_end: Tensor | None = None,
) -> Tensor:
    """x at s from x at t = times[:, 0], where ``known`` holds x_0-hat at ``times`` (B, p), and ``at_end`` it at s.

    Without ``at_end`` this is the predictor UniP of ``order`` (B,), with it the corrector UniC.
    """
    half = process.log_snr(times) / 2
    h = process.log_snr(s) / 2 - half[:, 0]
    nodes = [*((half[:, 1:] - half[:, :1]) / h[:, None]).unbind(1), torch.ones_like(h)]
    values = [*known[1:], known[0] if at_end is None else at_end]
    weights = [torch.zeros_like(h) for _ in nodes]
    for o in range(1, len(known) + 1):
        used = [*range(o - 1), *([len(nodes) - 1] if at_end is not None else [])]
        for number, weight in zip(used, _weights(-h, [nodes[n] for n in used], variant), strict=True):
            weights[number] = torch.where(order == o, weight, weights[number])
    moved = per_row(process.sigma(s) / process.sigma(t), x) * x
    moved = moved - per_row(process.alpha(s) * torch.expm1(-h), x) * known[0]
    for weight, node, value in zip(weights, nodes, values, strict=True):
        share = torch.where(weight == 0, weight, process.alpha(s) * weight / node)
        moved = moved - per_row(share, x) * (value - known[0])
    return moved


def _weights(hh: Tensor, nodes: list[Tensor], variant: str) -> list[Tensor]:
    """B(h) rho_j of the paper's sec. 3.1, as they fit polynomials as high as there are nodes; hh = -h.

    They solve sum_j B rho_j nodes_j^(i - 1) = i! g_i with g_0 = expm1(hh), g_i = g_(i - 1) / hh - 1 / i!, for i = 1, 2,
    ...; only a single node is not solved for: its rho is 1/2, in the predictor and in the corrector alike.
    """
    if len(nodes) == 1:
        return [(hh if variant == "bh1" else torch.expm1(hh)) / 2]
    g, moments = torch.expm1(hh), []
    for i in range(1, len(nodes) + 1):
        g = g / hh - 1 / math.factorial(i)
        moments.append(g * math.factorial(i))
    return [_lagrange(nodes, number, moments) for number in range(len(nodes))]


def _lagrange(nodes: list[Tensor], number: int, moments: list[Tensor]) -> Tensor:
    """sum_i c_i moments_i, where sum_i c_i z^i is the polynomial that is 1 at this node and 0 at the others."""
    others = nodes[:number] + nodes[number + 1 :]
    one = torch.ones_like(nodes[number])
    polynomial, scale = [one], one
    for other in others:
        raised, lowered = (
            [torch.zeros_like(one), *polynomial],
            [*(-other * c for c in polynomial), torch.zeros_like(one)],
        )
        polynomial = [a + b for a, b in zip(raised, lowered, strict=True)]
        scale = scale * (nodes[number] - other)
    total = torch.zeros_like(one)
    for c, moment in zip(polynomial, moments, strict=True):
        total = total + c * moment
    return total / scale
