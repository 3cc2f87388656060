"""Recipes at the scale of the papers, for colour images and GPUs."""

from __future__ import annotations

import math
from typing import Any

from undiffuse.augment.config import KarrasConfig, NoAugmentConfig
from undiffuse.config import ComponentConfig
from undiffuse.core.processes import PROCESSES
from undiffuse.data.config import FolderConfig
from undiffuse.models.options import SamplingConfig
from undiffuse.networks.config import TransformerConfig, UNetConfig
from undiffuse.recipes.parts import bedroom64, ddpm, edm, flow, row, score_sde
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig


def halflife(decay: float, batch_images: int) -> int:
    """Half-life, in images, of an exponential moving average with ``decay`` per step."""
    return round(math.log(0.5) / math.log(decay) * batch_images)


def _cifar10(recipe: str, system: ComponentConfig, *, random_flip: bool = True, **more: Any) -> RunConfig:
    """32x32 colour images with random horizontal flips and infrequent validation."""
    return RunConfig(
        recipe=recipe,
        data=FolderConfig(path="data/cifar10", size=32, channels=3, validation_fraction=0.02),
        system=system,
        random_flip=random_flip,
        log_every_images=12_800,
        validate_every_images=500_000,
        preview_every_images=500_000,
        checkpoint_every_images=1_000_000,
        **more,
    )


def ddpm_cifar10() -> RunConfig:
    """Ho et al. 2020, appendix B: 800k steps of 128 images, flips, EMA decay 0.9999 per step."""
    return _cifar10(
        "ddpm-cifar10",
        ddpm(
            UNetConfig.ho_cifar10(),
            precision="bf16",
            sampling=SamplingConfig(sampler="ancestral", num_steps=1000, grid="uniform"),
        ),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_images=640_000),
        # a decay of 0.9999 per step of 128 images is a half-life of 6,931 steps
        ema=EMAConfig(halflife_images=887_000, rampup=None),
        num_images=102_400_000,
        batch_images=128,
    )


def ddpmpp_cifar10() -> RunConfig:
    """Song et al. 2021, arXiv:2011.13456, appendix H: VP SDE, DDPM++, 1.3M steps of 128 images, warm-up of 5,000."""
    sampling = SamplingConfig(sampler="euler_maruyama", num_steps=1000, grid="uniform")
    network = UNetConfig.ddpmpp_cifar10()
    return _cifar10(
        "ddpmpp-cifar10",
        score_sde(network, row(PROCESSES, "vp"), precision="bf16", time_draws="independent", sampling=sampling),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_images=640_000),
        ema=EMAConfig(halflife_images=halflife(0.9999, 128), rampup=None),
        num_images=166_400_000,
        batch_images=128,
    )


def edm_cifar10() -> RunConfig:
    """Karras et al. 2022, arXiv:2206.00364, table 7: EDM, unconditional, 200M images in batches of 512.

    With the paper's augmentation, which the network is conditioned on so that it does not leak into samples, and 13%
    dropout: they prevent memorisation in such a long run.
    """
    return _cifar10(
        "edm-cifar10",
        edm(UNetConfig.edm_cifar10(), precision="bf16"),
        random_flip=False,
        augment=KarrasConfig(),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_images=10_000_000, clip_norm=None),
        ema=EMAConfig(halflife_images=500_000, rampup=0.05),
        num_images=200_000_000,
        batch_images=512,
    )


def dit_cifar10() -> RunConfig:
    """DiT-S with patch size 2 on pixels: 256 tokens, as many as DiT has on latents of 256x256 images.

    Trained by flow matching (as SiT, Ma et al. 2024, arXiv:2401.08740) with the optimizer of Peebles & Xie 2023,
    arXiv:2212.09748: AdamW at 1e-4 without weight decay, 400k steps of 256 images, EMA decay 0.9999 per step. For
    images in class folders add ``system.class_conditional=true``.
    """
    sampling = SamplingConfig(sampler="heun", num_steps=25, grid="uniform")
    return _cifar10(
        "dit-cifar10",
        flow(TransformerConfig.dit_s(), precision="bf16", sampling=sampling),
        optimizer=OptimizerConfig(name="adamw", learning_rate=1e-4),
        ema=EMAConfig(halflife_images=halflife(0.9999, 256), rampup=None),
        num_images=102_400_000,
        batch_images=256,
    )


def ncsnpp_ffhq256() -> RunConfig:
    """NCSN++ at 256x256 with the VE SDE (Song et al. 2021): the images of 2.4M steps of 64, here in batches of 32.

    The paper's noise levels, 0.01 to 348, are for pixels in [0, 1]; here pixels are in [-1, 1], so the levels are
    doubled, and the network is conditioned on the same numbers. As in the paper, its input is x_t without rescaling.
    Half of the images are rotated by up to 10 degrees, and the network is conditioned on the angle.
    """
    process = row(PROCESSES, "ve", sigma_min=0.02, sigma_max=696.0)
    sampling = SamplingConfig(sampler="pc:r=0.075", num_steps=2000, grid="uniform")
    more = {"parameterization": "eps", "time_draws": "independent"}
    return RunConfig(
        recipe="ncsnpp-ffhq256",
        data=FolderConfig(path="data/ffhq", size=256, channels=3, labels="none", validation_fraction=0.02),
        system=score_sde(UNetConfig.ncsnpp_ffhq256(), process, sampling=sampling, **more),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_images=160_000),
        ema=EMAConfig(halflife_images=halflife(0.999, 64), rampup=None),
        num_images=153_600_000,
        batch_images=32,
        random_flip=True,
        augment=NoAugmentConfig(rotate=0.5, rotate_degrees=10.0),
        log_every_images=3_200,
        validate_every_images=500_000,
        preview_every_images=500_000,
        checkpoint_every_images=500_000,
    )


def ddpm_bedroom64() -> RunConfig:
    """The diffusion counterpart of ``dcgan-bedroom64``: the same data and images, 15.0M parameters (DCGAN: 15.4M).

    DDPM with the linear schedule, at half resolution like all small recipes, for a comparison at equal training time.
    """
    return bedroom64(
        "ddpm-bedroom64",
        ddpm(
            UNetConfig(channels=64, multipliers=(1, 2, 3, 4), num_blocks=1, attention_levels=(2,), patch_size=2),
            precision="bf16",
            time_draws="stratified",
        ),
        optimizer=OptimizerConfig(name="muon", learning_rate=1e-3, warmup_images=64_000),
    )


def ddpm_church48() -> RunConfig:
    """The network of the LSUN church report at 48x48 with 86.8M parameters: 128 channels, 1-2-3-4."""
    return RunConfig(
        recipe="ddpm-church48",
        data=FolderConfig(path="data/church", size=48, channels=3, labels="none", validation_fraction=0.02),
        system=ddpm(
            UNetConfig(channels=128, multipliers=(1, 2, 3, 4), num_blocks=2, attention_levels=(2,), num_heads=4),
            precision="bf16",
        ),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_images=160_000),
        ema=EMAConfig(halflife_images=400_000),
        num_images=20_000_000,
        batch_images=64,
        micro_batch_images=16,
        random_flip=True,
        log_every_images=6_400,
        validate_every_images=200_000,
        preview_every_images=200_000,
        checkpoint_every_images=200_000,
    )
