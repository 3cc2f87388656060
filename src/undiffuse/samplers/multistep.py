"""Multistep samplers: they reuse the denoiser's outputs of earlier steps.

With l = lambda / 2 and h = l_s - l_t the exact step of the probability-flow ODE is, for every process,

    x_s = (sigma_s / sigma_t) x_t + sigma_s int_{l_t}^{l_s} exp(l) x_0-hat(l) dl,

and the methods differ in the polynomial that interpolates known values of x_0-hat in the integral. The memory is per
sample (NaN times mark empty entries), so samples may have different grids and start at any time.
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
    middle_x_0, memory = extrapolated_x_0(process, x_0, t, s, memory)
    bridge = process.bridge(s, t)
    z = brownian_noise(process, steps, noise, x)
    mean = per_row(bridge.c_t, x) * x + per_row(bridge.c_0, x) * middle_x_0
    return finalize(steps, mean + per_row(bridge.var.sqrt(), x) * z, x_0), memory


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
    """UniPC with data prediction: a step of order p, corrected with the next step's evaluation at no extra cost.

    Args:
        order: p, 2 or 3; the first steps of a sample use the order that its memory allows.
        variant: B(h), the weight of the first differences: ``bh1`` (h) or ``bh2`` (exp(h) - 1).
        lower_order_final: 1 lowers the order towards the last step, which is more stable with few steps; 0 does not.
    Raises:
        UsageError: an unknown order or variant.
    Note:
        The corrector raises inner steps to order p + 1, which is observed without ``lower_order_final``, but with p = 3
        the first two steps have lower order. With ``lower_order_final`` the observed order is 2.
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
        used_order = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return torch.zeros_like(x), used_order, times, *(torch.zeros_like(x) for _ in range(p))

    def step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
        process, (t, s) = denoiser.process, steps[:2]
        x_before, used_order, times, *known = memory
        x_0 = denoiser(x, t).x_0
        corrected = _move(process, x_before, times[:, 0], t, used_order, times, known, variant, at_end=x_0)
        x = where_rows(used_order > 0, corrected, x)
        times, known = torch.cat([t[:, None], times[:, :-1]], dim=1), [x_0, *known[:-1]]
        used_order = _order(process, steps, times, p, bool(lower_order_final))
        moved = _move(process, x, t, s, used_order, times, known, variant)
        moved = where_rows(process.sigma(s) > 0, moved, x_0)
        # a step from infinite log-SNR has no slope at its start, so the next step cannot correct it
        used_order = torch.where(torch.isfinite(process.log_snr(t)), used_order, 0)
        return finalize(steps, moved, x_0), (x, used_order, times, *known)

    observed_order = min(p, 2) if lower_order_final else p
    return Sampler(
        "unipc", step, observed_order, max_nfe_per_step=1, stochastic=False, source="arXiv:2302.04867", init=init
    )


def _order(process: Process, steps: Steps, times: Tensor, p: int, lower_order_final: bool) -> Tensor:
    """The order of each sample's next step: at most its number of x_0-hat at finite log-SNR, ``(B,)`` int64."""
    available = torch.isfinite(process.log_snr(times)).long().cumprod(1).sum(1).clamp(min=1)
    return torch.minimum(available, steps.count - steps.index) if lower_order_final else available


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
    """x at s from x at t = times[:, 0]; ``known`` is x_0-hat at ``times`` (B, p), ``at_end`` is x_0-hat at s.

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
        coefficient = torch.where(weight == 0, weight, process.alpha(s) * weight / node)
        moved = moved - per_row(coefficient, x) * (value - known[0])
    return moved


def _weights(hh: Tensor, nodes: list[Tensor], variant: str) -> list[Tensor]:
    """B(h) rho_j of the paper's sec. 3.1, one per node; hh = -h.

    They solve sum_j B rho_j nodes_j^(i - 1) = i! g_i with g_0 = expm1(hh), g_i = g_(i - 1) / hh - 1 / i!, for i = 1, 2,
    ...; with a single node rho = 1/2 is used, in the predictor and in the corrector.
    """
    if len(nodes) == 1:
        return [(hh if variant == "bh1" else torch.expm1(hh)) / 2]
    g, moments = torch.expm1(hh), []
    for i in range(1, len(nodes) + 1):
        g = g / hh - 1 / math.factorial(i)
        moments.append(g * math.factorial(i))
    return [_lagrange(nodes, number, moments) for number in range(len(nodes))]


def _lagrange(nodes: list[Tensor], number: int, moments: list[Tensor]) -> Tensor:
    """sum_i c_i moments_i, where sum_i c_i z^i is the Lagrange polynomial of this node."""
    other_nodes = nodes[:number] + nodes[number + 1 :]
    one = torch.ones_like(nodes[number])
    polynomial, scale = [one], one
    for other in other_nodes:
        times_z, times_node = (
            [torch.zeros_like(one), *polynomial],
            [*(-other * c for c in polynomial), torch.zeros_like(one)],
        )
        polynomial = [a + b for a, b in zip(times_z, times_node, strict=True)]
        scale = scale * (nodes[number] - other)
    total = torch.zeros_like(one)
    for c, moment in zip(polynomial, moments, strict=True):
        total = total + c * moment
    return total / scale
