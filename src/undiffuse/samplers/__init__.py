"""Samplers as step functions, time grids, and the one loop that runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    "pc": "undiffuse.samplers.langevin:pc",
    "mean_velocity": "undiffuse.samplers.mean_velocity:mean_velocity",
    "annealed_langevin": "undiffuse.samplers.langevin:annealed_langevin",
    "consistency": "undiffuse.samplers.consistency:consistency",
}


def make_sampler(spec: str) -> Sampler:
    """A sampler from ``name`` or ``name:option=value,option=value``, such as ``ddim:eta=0.5``.

    Raises:
        UsageError: an unknown sampler or option, or a value it refuses; the nearest known name is given.
    """
    sampler: Sampler = make(SAMPLERS, spec, "sampler")
    return sampler
