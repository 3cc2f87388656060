"""Our U-Net against diffusers', weights copied across: the same function, to rounding in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from unet_weights import copy_weights

from late import late
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.networks import UNetConfig, build_network
from undiffuse.networks.unet import UNet

diffusers = late("diffusers")

#: The configuration of google/ddpm-cifar10-32, written out (nothing is downloaded).
CIFAR10 = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
}
NARROW = {"block_out_channels": (32, 64, 64, 64), "norm_num_groups": 8}
SCALE_SHIFT = {
    **CIFAR10,
    **NARROW,
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 8,
    "attention_head_dim": 16,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_eps": 1e-5,
}
ADM_LIKE = {
    "channels": 32,
    "multipliers": (1, 2, 2, 2),
    "num_blocks": 2,
    "attention_levels": (1, 2),
    "head_channels": 16,
    "norm_groups": 8,
    "dropout": 0.0,
}


class ExactSinusoid(nn.Module):
    """Their time table in float64 (theirs is float32 whatever the model is)."""

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        self.width, self.shift = theirs.num_channels, theirs.downscale_freq_shift
        self.cosine_first = theirs.flip_sin_to_cos

    def forward(self, t: Tensor) -> Tensor:
        half = self.width // 2
        frequencies = 10_000.0 ** -(torch.arange(half, dtype=torch.float64) / (half - self.shift))
        angle = t.double()[:, None] * frequencies
        return torch.cat([angle.cos(), angle.sin()] if self.cosine_first else [angle.sin(), angle.cos()], dim=1)


def pair(config: UNetConfig, theirs_config: dict[str, object]) -> tuple[UNet, nn.Module]:
    torch.manual_seed(0)
    theirs = diffusers().UNet2DModel(**theirs_config).double().eval()
    with torch.no_grad():  # their defaults are ones and zeros in places, where a mistake would not show
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    ours = build_network(config, (3, 32, 32)).double().eval()
    copy_weights(ours, theirs)
    theirs.time_proj = ExactSinusoid(theirs.time_proj)
    return ours, theirs


CASES = {
    "ddpm-cifar10-32, a quarter as wide": (
        UNetConfig.ho_cifar10(channels=32, norm_groups=8),
        {**CIFAR10, **NARROW},
    ),
    "scale-shift norm, residual resampling": (UNetConfig.adm(64, **ADM_LIKE), SCALE_SHIFT),
}


@pytest.mark.parametrize("case", CASES)
def test_forward_equals_diffusers(case: str) -> None:
    ours, theirs = pair(*CASES[case])
    x, t = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([3.0, 871.0], dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(x, t).sample
        found = ours(x, t, Condition())
    assert expected.std() > 0.1
    assert (found - expected).abs().max() <= 1e-10


@pytest.mark.parametrize("convention", ["ddpm", "adm"])
def test_time_features_equal_theirs_to_float32(convention: str) -> None:
    from diffusers.models.embeddings import get_timestep_embedding

    from undiffuse.networks.layers import Sinusoid

    t = torch.tensor([0.0, 1.0, 17.0, 999.0])
    shift, flip = (1, False) if convention == "ddpm" else (0, True)
    expected = get_timestep_embedding(t, 64, flip_sin_to_cos=flip, downscale_freq_shift=shift)
    assert torch.allclose(Sinusoid(64, convention)(t), expected, atol=2e-4)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_full_cifar10_net_has_its_published_size() -> None:
    with torch.device("meta"):
        ours, theirs = build_network(UNetConfig.ho_cifar10(), (3, 32, 32)), diffusers().UNet2DModel(**CIFAR10)
    assert count(ours) == count(theirs) == 35_746_307


@pytest.mark.parametrize(("size", "millions"), [(64, 296), (128, 422), (256, 554), (512, 559)])
def test_adm_has_its_published_size(size: int, millions: int) -> None:
    """Dhariwal & Nichol 2021, table 4: class-conditional ImageNet models with learned variances."""
    with torch.device("meta"):
        network = build_network(UNetConfig.adm(size), (3, size, size), ConditionSpec.of_classes(1000), output_factor=2)
    assert math.isclose(count(network) / 1e6, millions, abs_tol=0.5)
