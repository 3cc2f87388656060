"""One recipe per model family on MNIST-format files, with the same network, optimizer and number of images, so that
differences between their samples are due to the family.

The images are in [-1, 1], twice the range of the papers, and the noise levels are scaled accordingly: sigma_max is the
largest distance between two digits, 32 (Song & Ermon 2020, technique 1), and sigma_min is 0.02.
"""

from __future__ import annotations

from undiffuse.core.processes import PROCESSES
from undiffuse.data.config import IdxConfig
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.models.options import SamplingConfig
from undiffuse.networks.config import UNetConfig
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.recipes.parts import ddpm, edm, flow, row, score_sde
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig

SIGMA_MIN, SIGMA_MAX = 0.02, 32.0
#: Number of noise levels by technique 2 of Song & Ermon 2020 for 784 dimensions: a ratio of 1.082.
NUM_LEVELS = 95

#: The network of all these recipes: half resolution, 1.7 million parameters.
_NETWORK = UNetConfig(channels=48, multipliers=(1, 2), num_blocks=1, patch_size=2)
_SOLVER = SamplingConfig(sampler="dpmpp_2m", num_steps=20, grid="uniform")


def _mnist(recipe: str, system: DiffusionConfig, folder: str = "data/mnist") -> RunConfig:
    return RunConfig(
        recipe=recipe,
        data=IdxConfig(path=folder, validation_fraction=0.02),
        system=system,
        optimizer=OptimizerConfig(name="muon", learning_rate=3e-3, warmup_images=3_000, decay="cosine"),
        ema=EMAConfig(halflife_images=8_000),
        num_images=100_000,
        batch_images=64,
        validate_every_images=25_000,
        preview_every_images=50_000,
    )


def ddpm_mnist() -> RunConfig:
    """Ho et al. 2020: linear betas, noise prediction."""
    return _mnist("ddpm-mnist", ddpm(_NETWORK, precision="bf16", time_draws="stratified", sampling=_SOLVER))


def iddpm_mnist() -> RunConfig:
    """Nichol & Dhariwal 2021: cosine schedule, learned variance, hybrid loss."""
    system = DiffusionConfig(
        process=row(PROCESSES, "ddpm_cosine"),
        parameterization="eps",
        weighting=row(WEIGHTINGS, "simple"),
        objective="hybrid",
        learned_variance=True,
        time_density=row(TIME_DENSITIES, "knots"),
        time_draws="stratified",
        network=_NETWORK,
        precision="bf16",
    )
    return _mnist("iddpm-mnist", system)


def vpsde_mnist() -> RunConfig:
    """Song et al. 2021: variance-preserving SDE."""
    return _mnist("vpsde-mnist", score_sde(_NETWORK, row(PROCESSES, "vp"), precision="bf16", sampling=_SOLVER))


def subvpsde_mnist() -> RunConfig:
    """Song et al. 2021: sub-VP SDE."""
    return _mnist("subvpsde-mnist", score_sde(_NETWORK, row(PROCESSES, "sub_vp"), precision="bf16", sampling=_SOLVER))


def vesde_mnist() -> RunConfig:
    """Song et al. 2021: variance-exploding SDE."""
    process = row(PROCESSES, "ve", sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    return _mnist("vesde-mnist", score_sde(_NETWORK, process, precision="bf16", sampling=_SOLVER))


def ncsn_mnist() -> RunConfig:
    """Song & Ermon 2019, 2020: noise-conditional score network; ``annealed_langevin`` is the papers' sampler."""
    process = row(PROCESSES, "ncsn", num_steps=NUM_LEVELS, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    levels = row(TIME_DENSITIES, "knots")
    return _mnist("ncsn-mnist", score_sde(_NETWORK, process, precision="bf16", time_density=levels, sampling=_SOLVER))


def edm_mnist() -> RunConfig:
    """Karras et al. 2022: preconditioning, log-normal noise levels, Heun's method."""
    return _mnist("edm-mnist", edm(_NETWORK, precision="bf16", time_draws="stratified"))


def flow_mnist() -> RunConfig:
    """Flow matching on MNIST-format files: ten minutes on two cores, with more images than the other recipes.

    Attention only at the lowest resolution: at equal training time, attention after every block gave no improvement.
    """
    return _longer(_mnist("flow-mnist", _flow()))


def ddpm_emnist() -> RunConfig:
    """DDPM on letters of both cases and digits, without classes.

    Tested on Omniglot instead of EMNIST, whose files were not available.
    """
    return ddpm_mnist().model_copy(
        update={"recipe": "ddpm-emnist", "data": IdxConfig(path="data/emnist", validation_fraction=0.02)}
    )


def flow_fashion() -> RunConfig:
    """Flow matching on Fashion-MNIST, trained as long as ``flow-mnist``."""
    return _longer(_mnist("flow-fashion", _flow(), "data/fashion-mnist"))


def edm_fashion() -> RunConfig:
    """EDM on Fashion-MNIST."""
    return _mnist("edm-fashion", edm(_NETWORK, precision="bf16", time_draws="stratified"), "data/fashion-mnist")


def _longer(config: RunConfig) -> RunConfig:
    """Train for the number of images that two cores process in ten minutes."""
    return config.model_copy(update={"num_images": 280_000, "preview_every_images": 70_000})


def _flow() -> DiffusionConfig:
    return flow(
        _NETWORK.model_copy(update={"attention_levels": ()}),
        precision="bf16",
        time_draws="stratified",
        time_density=row(TIME_DENSITIES, "logit_normal", mean=0.3, std=1.1),
        guide_images=20_000,
        sampling=SamplingConfig(
            sampler="unipc",
            num_steps=12,
            grid="uniform",
            autoguidance=2.0,
            autoguidance_interval=(-12.0, 2.0),
        ),
    )
