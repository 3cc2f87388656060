"""Recipes for 2-D points: every diffusion family on a Swiss roll, a minute or two each on one core.

They share data, network, optimizer and length, and differ in the process, the parameterization and the loss weighting,
so their samples can be compared; ``undiffuse study theory`` compares each with the exact distribution.
"""

from __future__ import annotations

from undiffuse.core.processes import PROCESSES
from undiffuse.data.config import SwissrollConfig
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.models.options import SamplingConfig
from undiffuse.networks.config import MLPConfig
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.recipes.parts import ddpm, edm, flow, row, score_sde
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig

_NETWORK = MLPConfig(width=128, num_blocks=4)
#: Noise levels for data of unit variance: the largest hides it, the smallest is half the noise of the data.
_LEVELS = {"sigma_min": 0.01, "sigma_max": 10.0}
#: Gives the VP and sub-VP SDEs the same largest sigma / alpha. With the papers' 20 it is 150, and x_0-hat divides the
#: network's error in the noise by alpha: then one sample in some hundreds is an outlier.
_BETA_MAX = 9.0


def ddpm_swissroll() -> RunConfig:
    """DDPM on a two-dimensional Swiss roll."""
    sampling = SamplingConfig(sampler="ancestral", num_steps=200, grid="uniform")
    return _run("ddpm-swissroll", ddpm(_NETWORK, num_steps=200, sampling=sampling))


def iddpm_swissroll() -> RunConfig:
    """Improved DDPM (Nichol & Dhariwal 2021): cosine schedule, a learned variance, the hybrid objective."""
    system = DiffusionConfig(
        process=row(PROCESSES, "ddpm_cosine", num_steps=200),
        parameterization="eps",
        weighting=row(WEIGHTINGS, "simple"),
        time_density=row(TIME_DENSITIES, "knots"),
        objective="hybrid",
        learned_variance=True,
        network=_NETWORK,
        sampling=SamplingConfig(sampler="ancestral:variance=learned", num_steps=200, grid="uniform"),
    )
    return _run("iddpm-swissroll", system)


def ncsn_swissroll() -> RunConfig:
    """A noise-conditional score network (Song & Ermon 2019): geometric levels, annealed Langevin dynamics."""
    return _run(
        "ncsn-swissroll",
        score_sde(
            _NETWORK,
            row(PROCESSES, "ncsn", num_steps=50, **_LEVELS),
            sampling=SamplingConfig(sampler="annealed_langevin", num_steps=50, grid="uniform"),
            time_density=row(TIME_DENSITIES, "knots"),
        ),
    )


def vesde_swissroll() -> RunConfig:
    """The variance-exploding SDE (Song et al. 2021), sampled by a predictor with a Langevin corrector."""
    sampling = SamplingConfig(sampler="pc", num_steps=100, grid="uniform")
    return _run("vesde-swissroll", score_sde(_NETWORK, row(PROCESSES, "ve", **_LEVELS), sampling=sampling))


def vpsde_swissroll() -> RunConfig:
    """The variance-preserving SDE (Song et al. 2021), sampled by Euler-Maruyama."""
    sampling = SamplingConfig(sampler="euler_maruyama", num_steps=200, grid="log_snr")
    return _run("vpsde-swissroll", score_sde(_NETWORK, row(PROCESSES, "vp", beta_max=_BETA_MAX), sampling=sampling))


def subvpsde_swissroll() -> RunConfig:
    """The sub-VP SDE (Song et al. 2021), sampled by its probability-flow ODE."""
    sampling = SamplingConfig(sampler="heun", num_steps=30, grid="log_snr")
    return _run(
        "subvpsde-swissroll", score_sde(_NETWORK, row(PROCESSES, "sub_vp", beta_max=_BETA_MAX), sampling=sampling)
    )


def edm_swissroll() -> RunConfig:
    """EDM (Karras et al. 2022): preconditioned residual, log-normal noise levels, Heun's method."""
    levels = {
        "process": row(PROCESSES, "edm", sigma_max=_LEVELS["sigma_max"]),
        "time_density": row(TIME_DENSITIES, "log_normal", mean=-1.2, std=1.6),
    }
    return _run("edm-swissroll", edm(_NETWORK).model_copy(update=levels))


def flow_swissroll() -> RunConfig:
    """Flow matching: straight paths between noise and the roll."""
    sampling = SamplingConfig(sampler="heun", num_steps=20, grid="uniform")
    return _run("flow-swissroll", flow(_NETWORK, sampling=sampling))


def _run(recipe: str, system: DiffusionConfig) -> RunConfig:
    return RunConfig(
        recipe=recipe,
        data=SwissrollConfig(),
        system=system,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_images=20_000, decay="cosine"),
        ema=EMAConfig(halflife_images=100_000),
        num_images=2_000_000,
        batch_images=1_000,
        log_every_images=50_000,
        validate_every_images=250_000,
        preview_every_images=500_000,
        checkpoint_every_images=1_000_000,
    )
