"""Names of weights in diffusers' ``UNet2DModel`` and ``UNet2DConditionModel``.

The second corresponds to a U-Net with ``text_block=transformer``, without self-attention of its own
(``attention_levels=()``, ``middle_attention=false``). Our learned null token is a token of its text.
"""

from __future__ import annotations

from undiffuse.interop.key_maps import Group, KeyMap, Parts, Stacked

_RESIDUAL: Parts = {
    "norm1": "norm1",
    "conv1": "conv1",
    "embed": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
}
_ATTENTION: Parts = {"norm": "group_norm", "qkv": Stacked(("to_q", "to_k", "to_v")), "out": "to_out.0"}
_TRANSFORMER: Parts = {
    "norm": "norm",
    "first": "proj_in",
    "blocks.{depth}.norm1": "transformer_blocks.{depth}.norm1",
    "blocks.{depth}.qkv": Stacked(tuple(f"transformer_blocks.{{depth}}.attn1.to_{name}" for name in "qkv")),
    "blocks.{depth}.out": "transformer_blocks.{depth}.attn1.to_out.0",
    "blocks.{depth}.norm2": "transformer_blocks.{depth}.norm2",
    "blocks.{depth}.cross.query": "transformer_blocks.{depth}.attn2.to_q",
    "blocks.{depth}.cross.key_value": Stacked(tuple(f"transformer_blocks.{{depth}}.attn2.to_{name}" for name in "kv")),
    "blocks.{depth}.cross.out": "transformer_blocks.{depth}.attn2.to_out.0",
    "blocks.{depth}.norm3": "transformer_blocks.{depth}.norm3",
    "blocks.{depth}.mlp.first": "transformer_blocks.{depth}.ff.net.0.proj",
    "blocks.{depth}.mlp.second": "transformer_blocks.{depth}.ff.net.2",
    "last": "proj_out",
}

UNET: KeyMap = {
    "stem": "conv_in",
    "embedding.first": "time_embedding.linear_1",
    "embedding.second": "time_embedding.linear_2",
    "norm": "conv_norm_out",
    "head": "conv_out",
    "down.{level}.stages.{index}.block": Group("down_blocks.{level}.resnets.{index}", _RESIDUAL),
    "down.{level}.stages.{index}.attention": Group("down_blocks.{level}.attentions.{index}", _ATTENTION),
    "down.{level}.stages.{index}.text": Group("down_blocks.{level}.attentions.{index}", _TRANSFORMER),
    "down.{level}.downsample.conv": "down_blocks.{level}.downsamplers.0.conv",
    "down.{level}.downsample.block": Group("down_blocks.{level}.downsamplers.0", _RESIDUAL),
    "middle.first.block": Group("mid_block.resnets.0", _RESIDUAL),
    "middle.first.attention": Group("mid_block.attentions.0", _ATTENTION),
    "middle.first.text": Group("mid_block.attentions.0", _TRANSFORMER),
    "middle.last": Group("mid_block.resnets.1", _RESIDUAL),
    "up.{level}.stages.{index}.block": Group("up_blocks.{level}.resnets.{index}", _RESIDUAL),
    "up.{level}.stages.{index}.attention": Group("up_blocks.{level}.attentions.{index}", _ATTENTION),
    "up.{level}.stages.{index}.text": Group("up_blocks.{level}.attentions.{index}", _TRANSFORMER),
    "up.{level}.upsample.conv": "up_blocks.{level}.upsamplers.0.conv",
    "up.{level}.upsample.block": Group("up_blocks.{level}.upsamplers.0", _RESIDUAL),
    "text.null": None,
}
