"""Progressive distillation: the x_0 whose single DDIM step is equal to two steps of the teacher.

Source: Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv:2202.00512, alg. 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.parameterization import eps_of
from undiffuse.core.process import Process
from undiffuse.core.rows import per_row, where_rows


@torch.no_grad()
def two_step_target(
    teacher: Denoiser, x_t: Tensor, t: Tensor, m: Tensor, s: Tensor, final: Tensor, cond: Condition | None = None
) -> Tensor:
    """The x_0 for which a DDIM step from t to s ends where the teacher's steps from t to m and from m to s end.

    x_0 = (x_s - (sigma_s / sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)

    Args:
        teacher: under the process of ``x_t``.
        x_t: (B, ...) at times ``t``.
        t, m, s: (B,) with s < m < t.
        final: (B,) whether the step is a sampler's last, which returns x_0-hat; the target is then the teacher's at m.
        cond: (B, ...) fields that the teacher is conditioned on; None is unconditional.
    Returns:
        (B, ...).
    """
    process = teacher.process
    x_m = _ddim_step(process, x_t, teacher(x_t, t, cond).x_0, t, m)
    x_0 = teacher(x_m, m, cond).x_0
    x_s = _ddim_step(process, x_m, x_0, m, s)
    ratio = process.sigma(s) / process.sigma(t)
    length = torch.where(final, torch.ones_like(t), process.alpha(s) - ratio * process.alpha(t))
    return where_rows(final, x_0, (x_s - per_row(ratio, x_t) * x_t) / per_row(length, x_t))


def _ddim_step(process: Process, x_t: Tensor, x_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """A DDIM step from t to s."""
    return per_row(process.alpha(s), x_t) * x_0 + per_row(process.sigma(s), x_t) * eps_of(process, x_t, x_0, t)
