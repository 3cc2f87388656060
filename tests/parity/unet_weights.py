"""Which of our U-Net's weights is which of ``diffusers.UNet2DModel``'s, name by name."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

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


def module_names(ours: UNet) -> Iterator[tuple[str, str]]:
    """Pairs (our module, theirs) of everything but attention; a shortcut may be missing on both sides."""
    yield from ENDS.items()
    for level, down in enumerate(ours.down):
        for index in range(len(down.stages)):
            yield from residual(f"down.{level}.stages.{index}.block", f"down_blocks.{level}.resnets.{index}")
        yield from resampler(f"down.{level}.downsample", f"down_blocks.{level}.downsamplers.0")
    yield from residual("middle.first.block", "mid_block.resnets.0")
    yield from residual("middle.last", "mid_block.resnets.1")
    for level, up in enumerate(ours.up):
        for index in range(len(up.stages)):
            yield from residual(f"up.{level}.stages.{index}.block", f"up_blocks.{level}.resnets.{index}")
        yield from resampler(f"up.{level}.upsample", f"up_blocks.{level}.upsamplers.0")


def residual(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for our_part, their_part in RESIDUAL.items():
        yield f"{ours}.{our_part}", f"{theirs}.{their_part}"


def resampler(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.conv", f"{theirs}.conv"
    yield from residual(f"{ours}.block", theirs)


def attention_names(ours: UNet) -> Iterator[tuple[str, str]]:
    """Pairs (our attention, theirs)."""
    for ours_path, theirs_path, levels in (("down", "down_blocks", ours.down), ("up", "up_blocks", ours.up)):
        for level, part in enumerate(levels):
            for index, stage in enumerate(part.stages):
                if stage.attention is not None:
                    yield f"{ours_path}.{level}.stages.{index}.attention", f"{theirs_path}.{level}.attentions.{index}"
    yield "middle.first.attention", "mid_block.attentions.0"


def attention(theirs: dict[str, Tensor], name: str, kind: str) -> dict[str, Tensor]:
    """Our attention's tensors of this kind (weight, bias): their query, key and value stacked in that order."""
    qkv = torch.cat([theirs.pop(f"{name}.{part}.{kind}") for part in ("to_q", "to_k", "to_v")])
    return {"qkv": qkv, "out": theirs.pop(f"{name}.to_out.0.{kind}"), "norm": theirs.pop(f"{name}.group_norm.{kind}")}


def copy_weights(ours: UNet, theirs: nn.Module) -> None:
    """Fill ``ours`` from ``theirs``; every tensor on both sides must be used exactly once."""
    # diffusers registers the same strided convolution under two names
    left = {name: value for name, value in theirs.state_dict().items() if ".Conv2d_0." not in name}
    filled: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        for our_name, their_name in module_names(ours):
            if f"{their_name}.{kind}" in left:
                filled[f"{our_name}.{kind}"] = left.pop(f"{their_name}.{kind}")
        for our_name, their_name in attention_names(ours):
            parts = attention(left, their_name, kind)
            filled |= {f"{our_name}.{part}.{kind}": value for part, value in parts.items()}
    assert not left, f"not copied: {sorted(left)}"
    ours.load_state_dict(filled)
