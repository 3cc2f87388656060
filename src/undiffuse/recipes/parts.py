"""Building blocks shared by several recipes."""

from __future__ import annotations

from typing import Any

from undiffuse.config import ComponentConfig, model_of
from undiffuse.core.processes import PROCESSES
from undiffuse.data.config import FolderConfig
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.models.options import SamplingConfig
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.training.config import EMAConfig, RunConfig


def row(registry: dict[str, Any], name: str, **options: Any) -> ComponentConfig:
    """The configuration of one row of a registry of functions."""
    return model_of(name, registry[name])(name=name, **options)


def bedroom64(recipe: str, system: ComponentConfig, **more: Any) -> RunConfig:
    """LSUN bedrooms at 64x64, or any folder of images, with the same number of images for every system."""
    return RunConfig(
        recipe=recipe,
        data=FolderConfig(path="data/bedroom", size=64, channels=3, labels="none", validation_fraction=0.02),
        system=system,
        ema=EMAConfig(halflife_images=40_000),
        num_images=10_000_000,
        batch_images=128,
        random_flip=True,
        log_every_images=12_800,
        validate_every_images=200_000,
        preview_every_images=200_000,
        checkpoint_every_images=200_000,
        **more,
    )


def ddpm(
    network: ComponentConfig, *, num_steps: int = 1000, sampling: SamplingConfig | None = None, **more: Any
) -> DiffusionConfig:
    """Ho et al. 2020: linear betas, noise prediction, L_simple, times drawn from the discrete steps."""
    return DiffusionConfig(
        process=row(PROCESSES, "ddpm_linear", num_steps=num_steps),
        parameterization="eps",
        weighting=row(WEIGHTINGS, "simple"),
        time_density=row(TIME_DENSITIES, "knots"),
        network=network,
        sampling=sampling or SamplingConfig(sampler="dpmpp_2m", num_steps=20, grid="log_snr"),
        **more,
    )


def flow(network: ComponentConfig, *, sampling: SamplingConfig | None = None, **more: Any) -> DiffusionConfig:
    """Flow matching: straight paths, velocity prediction."""
    return DiffusionConfig(
        process=row(PROCESSES, "flow"),
        parameterization="flow",
        weighting=row(WEIGHTINGS, "flow"),
        network=network,
        sampling=sampling or SamplingConfig(sampler="heun", num_steps=10, grid="uniform"),
        **more,
    )


def score_sde(
    network: ComponentConfig, process: ComponentConfig, *, sampling: SamplingConfig, **more: Any
) -> DiffusionConfig:
    """Song et al. 2021: denoising score matching, weighted by sigma^2, at times spread evenly over [0, 1]."""
    return DiffusionConfig(
        **{
            "process": process,
            "parameterization": "eps_unit",
            "weighting": row(WEIGHTINGS, "simple"),
            "time_density": row(TIME_DENSITIES, "uniform"),
            "time_draws": "stratified",
            "network": network,
            "sampling": sampling,
            **more,
        }
    )


def edm(network: ComponentConfig, *, sampling: SamplingConfig | None = None, **more: Any) -> DiffusionConfig:
    """Karras et al. 2022: preconditioned residual, log-normal noise levels."""
    return DiffusionConfig(
        process=row(PROCESSES, "edm"),
        parameterization="edm",
        weighting=row(WEIGHTINGS, "edm"),
        time_density=row(TIME_DENSITIES, "log_normal"),
        network=network,
        sampling=sampling or SamplingConfig(sampler="heun", num_steps=18, grid="karras"),
        **more,
    )
