"""The pyramids of NCSN++ against what they are written to be, and inside a network that says nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from undiffuse.core.condition import Condition
from undiffuse.networks import UNetConfig, build_network
from undiffuse.networks.layers import conv
from undiffuse.networks.multiscale import InputResidual, InputSkip, OutputResidual, OutputSkip, OutputStart
from undiffuse.networks.resample import FIRDown, FIRUp, double, halve

HALF = math.sqrt(0.5)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_input_skip_adds_or_concatenates_a_projection_of_the_smaller_image() -> None:
    image, h = noise(2, 3, 8, 6), noise(2, 5, 4, 3, seed=1)
    add = InputSkip(3, 5, FIRDown(), concatenate=False).double()
    concat = InputSkip(3, 5, FIRDown(), concatenate=True).double()
    concat.load_state_dict(add.state_dict())
    smaller = FIRDown().double()(image)
    projected = torch.einsum("oi,bihw->bohw", add.project.weight[:, :, 0, 0], smaller) + add.project.bias[:, None, None]
    pyramid, joined = add(image, h)
    assert torch.equal(pyramid, smaller) and torch.allclose(joined, projected + h, atol=1e-12)
    assert torch.allclose(concat(image, h)[1], torch.cat([projected, h], dim=1), atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, HALF])
def test_residual_pyramids_are_the_features_from_there_on(scale: float) -> None:
    down, up = InputResidual(3, 5, scale).double(), OutputResidual(3, 5, scale).double()
    small, large = noise(2, 5, 4, 3), noise(2, 5, 7, 6)
    pyramid, h = down(image := noise(2, 3, 8, 6, seed=1), small)
    assert pyramid is h and torch.allclose(h, scale * (down.smaller(image) + small), atol=1e-12)
    pyramid, h = up(image := noise(2, 3, 4, 3, seed=1), large)
    assert pyramid is h and torch.allclose(h, scale * (up.larger(image, (7, 6)) + large), atol=1e-12)


def test_output_skip_adds_to_the_grown_pyramid_and_leaves_the_features() -> None:
    h, coarse = noise(2, 4, 5, 6), noise(2, 3, 3, 3, seed=1)
    join = OutputSkip(nn.GroupNorm(1, 4), conv(4, 3), FIRUp()).double()
    first, same = join(None, h)
    assert same is h and torch.allclose(first, join.head(nn.functional.silu(join.norm(h))), atol=1e-12)
    grown, same = join(coarse, h)
    assert same is h and torch.allclose(grown, first + FIRUp().double()(coarse, (5, 6)), atol=1e-12)
    start, same = OutputStart(nn.GroupNorm(1, 4), 4).double()(None, h)
    assert same is h and start.shape == h.shape


PYRAMID = {"channels": 4, "multipliers": (1, 1, 1), "num_blocks": 1, "attention_levels": (), "middle_attention": False}
PYRAMID |= {"downsample": "residual", "upsample": "residual"}


@pytest.mark.parametrize("resample_filter", ["box", "fir"])
def test_the_output_is_the_sum_over_levels(resample_filter: str) -> None:
    """With biases alone, level l says b_l everywhere: inside, the output is their sum."""
    config = UNetConfig(**PYRAMID, progressive_output="output_skip", resample_filter=resample_filter)
    network = build_network(config, (2, 24, 21)).double()
    heads = [network.up[0].join.head, network.up[1].join.head, network.head]
    for head, value in zip(heads, (1.0, 10.0, 100.0), strict=True):
        nn.init.constant_(head.bias, value)
    out = network(noise(1, 2, 24, 21), torch.zeros(1, dtype=torch.float64), Condition())
    assert torch.allclose(out[..., 8:-9, 8:-8], torch.tensor(111.0, dtype=torch.float64))


def test_the_image_itself_reaches_every_level() -> None:
    """A stem of zeros hides the image from the features: the pyramid alone brings it in, at half and quarter size."""
    config = UNetConfig(**PYRAMID, progressive_input="input_skip")
    network = build_network(config, (2, 8, 8)).double()
    nn.init.zeros_(network.stem.weight)
    seen: list[Tensor] = []
    for level in network.down[:2]:
        level.join.project.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    x = noise(1, 2, 8, 8)
    network(x, torch.zeros(1, dtype=torch.float64), Condition())
    assert torch.equal(seen[0], halve(x)) and torch.equal(seen[1], halve(halve(x)))
    assert torch.equal(double(seen[1], (3, 4)), seen[1].repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :3])
