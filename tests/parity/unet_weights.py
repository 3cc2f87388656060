"""Which of our U-Net's weights is which of ``diffusers.UNet2DModel``'s, name by name."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from undiffuse.interop.diffusers_unet import UNET
from undiffuse.interop.key_maps import converted
from undiffuse.networks.unet import UNet

RESIDUAL = {
    "norm1": "norm1",
    "conv1": "conv1",
    "embed": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
}
ENDS = {
    "stem": "conv_in",
    "embedding.first": "time_embedding.linear_1",
    "embedding.second": "time_embedding.linear_2",
    "norm": "conv_norm_out",
    "head": "conv_out",
}


def residual(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for our_part, their_part in RESIDUAL.items():
        yield f"{ours}.{our_part}", f"{theirs}.{their_part}"


def attention(theirs: dict[str, Tensor], name: str, kind: str) -> dict[str, Tensor]:
    """Our attention's tensors of this kind (weight, bias): their query, key and value stacked in that order."""
    qkv = torch.cat([theirs.pop(f"{name}.{part}.{kind}") for part in ("to_q", "to_k", "to_v")])
    return {"qkv": qkv, "out": theirs.pop(f"{name}.to_out.0.{kind}"), "norm": theirs.pop(f"{name}.group_norm.{kind}")}


def copy_weights(ours: UNet, theirs: nn.Module) -> None:
    """Fill ``ours`` from ``theirs``; every tensor on both sides must be used exactly once."""
    # diffusers registers the same strided convolution under two names
    weights = {name: value for name, value in theirs.state_dict().items() if ".Conv2d_0." not in name}
    ours.load_state_dict(converted(weights, ours.state_dict(), UNET))
