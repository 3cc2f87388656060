"""Our NCSN++ against diffusers' (the family of google/ncsnpp-ffhq-256), weights copied across, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from unet_weights import ENDS, attention, residual

from late import late
from undiffuse.core.condition import Condition
from undiffuse.networks import UNetConfig, build_network
from undiffuse.networks.resample import FIRConvDown, FIRConvUp, FIRDown, FIRUp
from undiffuse.networks.unet import UNet

diffusers = late("diffusers")

#: The kind of google/ncsnpp-ffhq-256 with three levels; their attention needs 128 channels for 4 a group.
SMALL = {
    "sample_size": 12,
    "block_out_channels": (32, 128, 128),
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
    "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": None,
    "mid_block_scale_factor": 2**0.5,
    "time_embedding_type": "fourier",
    "norm_num_groups": None,
    "norm_eps": 1e-6,
}


def module_names(ours: UNet) -> Iterator[tuple[str, str]]:
    """Pairs (our module, theirs) of everything but attention and the random frequencies."""
    yield from ENDS.items()
    for side, parts in (("down", ours.down), ("up", ours.up)):
        for level, part in enumerate(parts):
            theirs = f"{side}_blocks.{level}"
            for index in range(len(part.stages)):
                yield from residual(f"{side}.{level}.stages.{index}.block", f"{theirs}.resnets.{index}")
            yield from residual(f"{side}.{level}.{side}sample.block", f"{theirs}.resnet_{side}")
            yield f"{side}.{level}.join.{'project' if side == 'down' else 'head'}", f"{theirs}.skip_conv"
            yield f"{side}.{level}.join.norm", f"{theirs}.skip_norm"
    yield from residual("middle.first.block", "mid_block.resnets.0")
    yield from residual("middle.last", "mid_block.resnets.1")


ATTENTION = {
    "down.1.stages.0.attention": "down_blocks.1.attentions.0",
    "up.1.stages.1.attention": "up_blocks.1.attentions.0",
    "middle.first.attention": "mid_block.attentions.0",
}


def copy_weights(ours: UNet, theirs: nn.Module) -> None:
    """Every tensor on both sides is used exactly once; their features are sines first, ours cosines."""
    left = dict(theirs.state_dict())
    filled: dict[str, Tensor] = {"embedding.features.frequencies": left.pop("time_proj.weight")}
    for kind in ("weight", "bias"):
        for our_name, their_name in module_names(ours):
            if f"{their_name}.{kind}" in left:
                filled[f"{our_name}.{kind}"] = left.pop(f"{their_name}.{kind}")
        for our_name, their_name in ATTENTION.items():
            parts = attention(left, their_name, kind)
            filled |= {f"{our_name}.{part}.{kind}": value for part, value in parts.items()}
    first = filled["embedding.first.weight"]
    filled["embedding.first.weight"] = first.roll(first.shape[1] // 2, dims=1)
    assert not left, f"not copied: {sorted(left)}"
    ours.load_state_dict(filled)


def test_forward_equals_diffusers() -> None:
    torch.manual_seed(0)
    theirs = diffusers().UNet2DModel(**SMALL).double().eval()
    with torch.no_grad():  # their defaults are ones and zeros in places, where a mistake would not show
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    small = {"channels": 32, "multipliers": (1, 4, 4), "num_blocks": 1, "attention_levels": (1,), "time_channels": 64}
    ours = build_network(UNetConfig.ncsnpp_ffhq256(**small), (3, 12, 12)).double().eval()
    copy_weights(ours, theirs)
    x, sigma = torch.randn(2, 3, 12, 12, dtype=torch.float64), torch.tensor([0.3, 41.0], dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(x, sigma).sample * sigma[:, None, None, None]  # the score: they divide by sigma inside
        found = ours(x, sigma.log(), Condition())
    assert expected.std() > 0.1
    assert (found - expected).abs().max() <= 1e-10


#: google/ncsnpp-ffhq-256, written out (nothing is downloaded).
FFHQ256 = {
    **SMALL,
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 256, 256, 256),
    "down_block_types": (*["SkipDownBlock2D"] * 4, "AttnSkipDownBlock2D", *["SkipDownBlock2D"] * 2),
    "up_block_types": (*["SkipUpBlock2D"] * 2, "AttnSkipUpBlock2D", *["SkipUpBlock2D"] * 4),
    "layers_per_block": 2,
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def sized(config: UNetConfig, size: int = 32) -> int:
    with torch.device("meta"):
        return count(build_network(config, (3, size, size)))


def test_the_full_ffhq_net_has_their_size() -> None:
    """Song et al. publish no count; theirs also counts the 128 fixed frequencies."""
    with torch.device("meta"):
        theirs = diffusers().UNet2DModel(**FFHQ256)
    assert sized(UNetConfig.ncsnpp_ffhq256(), 256) == count(theirs) - 128 == 65_574_421


def test_ddpmpp_has_the_sizes_that_karras_et_al_publish() -> None:
    """Karras et al. 2022, table 7: 55.7M on CIFAR-10 and 61.8M with levels 1-2-2-2, both with 9 augmentation labels."""
    labels = 9 * 128
    assert round((sized(UNetConfig.edm_cifar10()) + labels) / 1e6, 1) == 55.7
    assert round((sized(UNetConfig.ddpmpp_cifar10()) + labels) / 1e6, 1) == 61.8


def test_ncsnpp_is_ddpmpp_with_wider_time_features_and_an_input_pyramid() -> None:
    """No published count: derived from the description."""
    wider = (256 - 128) * 512
    pyramid = sum(9 * channels * out + out for channels, out in ((3, 128), (128, 256), (256, 256)))
    assert sized(UNetConfig.ncsnpp_cifar10()) == sized(UNetConfig.ddpmpp_cifar10()) + wider + pyramid == 62_758_787


@pytest.mark.parametrize(("levels", "sigma_min"), [("0.01 to 50", 0.01), ("doubled for [-1, 1]", 0.02)])
def test_fourier_features_turn_as_often_as_those_of_log_sigma(levels: str, sigma_min: float) -> None:
    from undiffuse.core.processes import VESDE

    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    log_sigma = VESDE(sigma_min, 5_000 * sigma_min).sigma(t).log()
    scale = UNetConfig.ncsnpp_cifar10().fourier_scale
    assert scale is not None
    assert torch.allclose(scale * 1000 * t.diff(), 16 * log_sigma.diff(), rtol=1e-12)


def test_resampling_equals_diffusers() -> None:
    from diffusers.models.downsampling import FirDownsample2D
    from diffusers.models.upsampling import FirUpsample2D

    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    assert torch.allclose(FIRDown().double()(x), FirDownsample2D()(x), atol=1e-12)
    assert torch.allclose(FIRUp().double()(x, (12, 16)), FirUpsample2D()(x), atol=1e-12)
    theirs, ours = FirDownsample2D(3, 4, use_conv=True).double(), FIRConvDown(3, 4).double()
    ours.conv.load_state_dict(theirs.Conv2d_0.state_dict())
    assert torch.allclose(ours(x), theirs(x), atol=1e-12)
    theirs_up, ours_up = FirUpsample2D(3, 4, use_conv=True).double(), FIRConvUp(3, 4).double()
    # theirs keeps the weights of a plain convolution and flips them for the transposed one
    weight = theirs_up.Conv2d_0.weight.flip(2, 3).transpose(0, 1)
    ours_up.load_state_dict({"conv.weight": weight, "bias": torch.full((4,), 0.5)})
    nn.init.constant_(theirs_up.Conv2d_0.bias, 0.5)
    assert torch.allclose(ours_up(x, (12, 16)), theirs_up(x), atol=1e-12)
