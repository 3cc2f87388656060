"""Networks with text against diffusers' own classes, all weights random and copied through the key maps of interop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_unet_diffusers import ExactSinusoid
from torch import Tensor, nn
from torch.nn import functional as F

from late import late
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec, TextSpec
from undiffuse.errors import UsageError
from undiffuse.interop.diffusers_joint import JOINT_BLOCK, LAST_JOINT_BLOCK
from undiffuse.interop.diffusers_unet import UNET
from undiffuse.interop.key_maps import KeyMap, Stacked, converted, their_keys
from undiffuse.networks import TransformerConfig, UNetConfig, build_network
from undiffuse.networks.joint import JointBlock

diffusers = late("diffusers")

TOKENS, WIDTH = 5, 12
#: A small network of the form of Stable Diffusion's, without text at the coarsest level.
THEIRS: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,  # their name of the number of heads
    "norm_num_groups": 8,
    "norm_eps": 1e-6,  # that of their norm before the transformer, here of all group norms
}
OURS: dict[str, Any] = {
    "channels": 32,
    "multipliers": (1, 2, 2),
    "num_blocks": 2,
    "attention_levels": (),
    "middle_attention": False,
    "text_levels": (0, 1),
    "text_block": "transformer",
    "num_heads": 4,
    "time_features": "adm",
    "time_injection": "add",
    "norm_groups": 8,
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one block, projections by 1 x 1 convolutions": ({}, {}),
    "two blocks, linear projections, scale-shift norms": (
        {
            "use_linear_projection": True,
            "transformer_layers_per_block": 2,
            "resnet_time_scale_shift": "scale_shift",
        },
        {"text_depth": 2, "time_injection": "scale_shift"},
    ),
}


def randomised(module: nn.Module) -> nn.Module:
    """All weights random: biases and scales of norms too, where a mistake would not show otherwise."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return module.eval()


def fill(ours: nn.Module, theirs: nn.Module, key_map: KeyMap) -> None:
    ours.load_state_dict(converted(theirs.state_dict(), ours.state_dict(), key_map))


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest value."""
    assert expected.std() > 0.1
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_the_u_net_with_text_equals_unet2dconditionmodel(case: str) -> None:
    """Texts of different lengths, with our null token as the first token of theirs."""
    their_options, our_options = CASES[case]
    torch.manual_seed(0)
    theirs = randomised(diffusers().UNet2DConditionModel(**{**THEIRS, **their_options}))
    spec = ConditionSpec(text=TextSpec(tokens=TOKENS, width=WIDTH))
    ours = randomised(build_network(UNetConfig(**{**OURS, **our_options}), (4, 16, 16), spec))
    fill(ours, theirs, UNET)
    count = [sum(parameter.numel() for parameter in network.parameters()) for network in (ours, theirs)]
    assert count[0] == count[1] + WIDTH  # the null token
    x, t, tokens = torch.randn(3, 4, 16, 16), torch.tensor([3.0, 402.0, 871.0]), torch.randn(3, TOKENS, WIDTH)
    mask = torch.arange(TOKENS) < torch.tensor([[5], [2], [0]])

    def outputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        null = ours.text.null.to(dtype).expand(3, 1, WIDTH)  # type: ignore[union-attr]
        context, seen = torch.cat([null, tokens.to(dtype)], dim=1), F.pad(mask, (1, 0), value=True)
        with torch.no_grad():
            expected = theirs(x.to(dtype), t, context, encoder_attention_mask=seen).sample
            found = ours(x.to(dtype), t.to(dtype), Condition(tokens=tokens.to(dtype), token_mask=mask))
        return found, expected

    assert difference(*outputs(torch.float32)) <= 1e-5
    ours.double(), theirs.double()
    theirs.time_proj = ExactSinusoid(theirs.time_proj)
    assert difference(*outputs(torch.float64)) <= 1e-12


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("query_key_norm", [False, True])
def test_the_joint_block_equals_jointtransformerblock(query_key_norm: bool, last: bool) -> None:
    from diffusers.models.attention import JointTransformerBlock

    torch.manual_seed(0)
    norm = "rms_norm" if query_key_norm else None
    theirs = randomised(JointTransformerBlock(24, 3, 8, context_pre_only=last, qk_norm=norm))
    config = TransformerConfig(
        channels=24, num_heads=3, mlp_ratio=4, conditioning="joint", query_key_norm=query_key_norm
    )
    ours = randomised(JointBlock(config, ends_text=last))
    fill(ours, theirs, LAST_JOINT_BLOCK if last else JOINT_BLOCK)
    tokens, text, embedding = torch.randn(2, 16, 24), torch.randn(2, TOKENS, 24), torch.randn(2, 24)

    exact = 1e-7 if query_key_norm else 1e-12  # their norm takes its mean square in float32 whatever the model is
    for dtype, most in ((torch.float32, 1e-5), (torch.float64, exact)):
        ours.to(dtype), theirs.to(dtype)
        inputs = [part.to(dtype) for part in (tokens, text, embedding)]
        with torch.no_grad():
            expected_text, expected = theirs(*inputs)
            found, found_text = ours(inputs[0], inputs[1], F.silu(inputs[2]))  # ours are embedded with their SiLU
        assert difference(found, expected) <= most
        assert (found_text is None) == (expected_text is None) == last
        if not last:
            assert difference(found_text, expected_text) <= most


def test_a_key_map_uses_every_weight_once() -> None:
    ours = {"a.0.qkv.weight": torch.zeros(4, 2), "b.weight": torch.zeros(2, 2), "own": torch.ones(1)}
    key_map: KeyMap = {"a.{n}.qkv": Stacked(("x.{n}.q", "x.{n}.k")), "b": "y", "own": None}
    theirs = {"x.0.q.weight": torch.ones(2, 2), "x.0.k.weight": 2 * torch.ones(2, 2), "y.weight": torch.eye(2)}
    found = converted(theirs, ours, key_map)
    assert found["a.0.qkv.weight"].tolist() == [[1, 1], [1, 1], [2, 2], [2, 2]]
    assert torch.equal(found["own"], ours["own"])
    assert their_keys("a.7.qkv.bias", key_map) == ("x.7.q.bias", "x.7.k.bias")
    convolution = {**theirs, "y.weight": torch.eye(2)[..., None, None]}
    assert torch.equal(converted(convolution, ours, key_map)["b.weight"], torch.eye(2))
    wrong = [
        ({**theirs, "z.weight": torch.zeros(1)}, "1 weights have no place here, such as z.weight"),
        ({key: value for key, value in theirs.items() if key != "y.weight"}, "no y.weight, which is b.weight here"),
        ({**theirs, "y.weight": torch.zeros(3, 2)}, r"b.weight has the shape \(2, 2\) here and \(3, 2\) there"),
    ]
    for weights, message in wrong:
        with pytest.raises(UsageError, match=message):
            converted(weights, ours, key_map)
    with pytest.raises(UsageError, match=r"no rule for a\.x\.qkv\.weight"):
        their_keys("a.x.qkv.weight", key_map)
