"""Samplers as step functions, time grids, and the sampling loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from undiffuse.errors import UsageError
from undiffuse.registry import make

if TYPE_CHECKING:
    from undiffuse.samplers.base import Sampler

SAMPLERS = {
    "ancestral": "undiffuse.samplers.ancestral:ancestral",
    "ddim": "undiffuse.samplers.ancestral:ddim",
    "euler": "undiffuse.samplers.ode:euler",
    "heun": "undiffuse.samplers.ode:heun",
    "dpmpp_2m": "undiffuse.samplers.ode:dpmpp_2m",
    "rk45": "undiffuse.samplers.adaptive:rk45",
    "edm": "undiffuse.samplers.edm:edm",
    "dpmpp_2m_sde": "undiffuse.samplers.multistep:dpmpp_2m_sde",
    "unipc": "undiffuse.samplers.multistep:unipc",
    "euler_maruyama": "undiffuse.samplers.sde:euler_maruyama",
    "reverse_diffusion": "undiffuse.samplers.sde:reverse_diffusion",
    "pc": "undiffuse.samplers:pc",
    "mean_velocity": "undiffuse.samplers.mean_velocity:mean_velocity",
    "annealed_langevin": "undiffuse.samplers.langevin:annealed_langevin",
    "consistency": "undiffuse.samplers.consistency:consistency",
}


def make_sampler(spec: str) -> Sampler:
    """A sampler from ``name`` or ``name:option=value,option=value``, such as ``ddim:eta=0.5``.

    Raises:
        UsageError: an unknown sampler or option (the message suggests the nearest name), or an invalid value.
    """
    sampler: Sampler = make(SAMPLERS, spec, "sampler")
    return sampler


def pc(predictor: str = "reverse_diffusion", corrections: int = 1, r: float = 0.16) -> Sampler:
    """Any sampler as predictor from t to s, then Langevin corrections at s.

    Samples whose step is final, or ends at sigma = 0, are not corrected. It is defined in this module because it refers
    to another entry of ``SAMPLERS``.

    Args:
        predictor: a sampler with at most one option, such as ``ddim:eta=1``.
        corrections: Langevin steps per time step, at least 1.
        r: Song's signal-to-noise ratio of a correction, in (0, 1).
    Raises:
        UsageError: a predictor that is a Langevin sampler itself, or an option out of range.
    Source: Song et al. 2021, arXiv:2011.13456, algorithms 1-5 and appendix G (r = 0.16).
    """
    from undiffuse.samplers.langevin import check_options, predictor_corrector  # imports torch

    corrections = check_options("pc", corrections, r)
    inner = make_sampler(predictor)
    if inner.order == 0:
        raise UsageError(f"pc corrects a solver, but predictor {predictor!r} is a Langevin sampler; try 'ancestral'")
    return predictor_corrector(inner, corrections, r)
