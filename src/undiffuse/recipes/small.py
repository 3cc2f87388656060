"""Recipes for a laptop: digits, MNIST-format files, points in the plane."""

from __future__ import annotations

from undiffuse.data.config import DigitsConfig, IdxConfig, SwissrollConfig
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.networks.config import MLPConfig, UNetConfig
from undiffuse.recipes.parts import ddpm, flow, row
from undiffuse.systems.diffusion import SamplingConfig
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig

#: Where MNIST-format files are looked for unless ``--data`` says otherwise.
MNIST_FOLDER = "data/mnist"


def ddpm_digits() -> RunConfig:
    """DDPM on the embedded 8x8 digits."""
    return RunConfig(
        recipe="ddpm-digits",
        data=DigitsConfig(),
        system=ddpm(
            UNetConfig(channels=48, multipliers=(1, 2), num_blocks=1), time_draws="stratified", class_conditional=True
        ),
        optimizer=OptimizerConfig(name="muon", learning_rate=3e-3, warmup_images=3_000, decay="cosine"),
        ema=EMAConfig(halflife_images=10_000),
        num_images=100_000,
        batch_images=128,
        validate_every_images=10_000,
        preview_every_images=30_000,
        validation_images=180,
    )


def ddpm_mnist() -> RunConfig:
    """DDPM on MNIST-format files, at full resolution."""
    return RunConfig(
        recipe="ddpm-mnist",
        data=IdxConfig(path=MNIST_FOLDER, validation_fraction=0.02),
        system=ddpm(UNetConfig(channels=32, multipliers=(1, 2, 2), num_blocks=1), precision="bf16"),
        optimizer=OptimizerConfig(name="muon", learning_rate=3e-3, warmup_images=3_000, decay="cosine"),
        ema=EMAConfig(halflife_images=10_000),
        num_images=150_000,
        batch_images=64,
    )


def flow_mnist() -> RunConfig:
    """Flow matching on MNIST-format files, at half resolution: ten minutes on two cores."""
    network = UNetConfig(channels=48, multipliers=(1, 2), num_blocks=1, patch_size=2)
    return RunConfig(
        recipe="flow-mnist",
        data=IdxConfig(path=MNIST_FOLDER, validation_fraction=0.02),
        system=flow(
            network,
            precision="bf16",
            time_draws="stratified",
            time_density=row(TIME_DENSITIES, "logit_normal", mean=0.3, std=1.1),
            sampling=SamplingConfig(sampler="heun", num_steps=10, grid="uniform"),
        ),
        optimizer=OptimizerConfig(name="muon", learning_rate=3e-3, warmup_images=3_000, decay="cosine"),
        ema=EMAConfig(halflife_images=8_000),
        num_images=210_000,
        batch_images=64,
        validate_every_images=30_000,
        preview_every_images=70_000,
    )


def ddpm_emnist() -> RunConfig:
    """DDPM on letters of both cases and digits, without classes.

    EMNIST's files were not to be had where this was written: it was tried on Omniglot.
    """
    return ddpm_mnist().model_copy(
        update={"recipe": "ddpm-emnist", "data": IdxConfig(path="data/emnist", validation_fraction=0.02)}
    )


def ddpm_swissroll() -> RunConfig:
    """DDPM on a two-dimensional Swiss roll."""
    return RunConfig(
        recipe="ddpm-swissroll",
        data=SwissrollConfig(),
        system=ddpm(
            MLPConfig(width=128, num_blocks=4),
            num_steps=200,
            sampling=SamplingConfig(sampler="ancestral", num_steps=200, grid="uniform"),
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_images=20_000, decay="cosine"),
        ema=EMAConfig(halflife_images=100_000),
        num_images=2_000_000,
        batch_images=1_000,
        log_every_images=50_000,
        validate_every_images=250_000,
        preview_every_images=500_000,
        checkpoint_every_images=1_000_000,
    )
