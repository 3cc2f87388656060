"""Names of weights in diffusers' ``JointTransformerBlock`` (MMDiT), for one block of ``networks.joint``."""

from __future__ import annotations

from undiffuse.interop.key_maps import KeyMap, Stacked, Swapped

#: A block that updates both image and text.
JOINT_BLOCK: KeyMap = {
    "image.embed": "norm1.linear",
    "image.qkv": Stacked(("attn.to_q", "attn.to_k", "attn.to_v")),
    "image.norms.query": "attn.norm_q",
    "image.norms.key": "attn.norm_k",
    "image.out": "attn.to_out.0",
    "image.mlp.0": "ff.net.0.proj",
    "image.mlp.3": "ff.net.2",
    "text.embed": "norm1_context.linear",
    "text.qkv": Stacked(("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
    "text.norms.query": "attn.norm_added_q",
    "text.norms.key": "attn.norm_added_k",
    "text.out": "attn.to_add_out",
    "text.mlp.0": "ff_context.net.0.proj",
    "text.mlp.3": "ff_context.net.2",
}

#: The last block (``context_pre_only``), which only reads the text; they have its scale before its shift.
LAST_JOINT_BLOCK: KeyMap = {**JOINT_BLOCK, "text.embed": Swapped("norm1_context.linear")}
