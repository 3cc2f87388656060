"""Our transformer against diffusers' DiT, weights copied across, in float64; and the papers' numbers of parameters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from late import late
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.networks import TransformerConfig, build_network
from undiffuse.networks.transformer import Transformer, sincos_positions

diffusers = late("diffusers")

CLASSES, DEPTH, WIDTH, HEADS, PATCH, CHANNELS = 5, 3, 24, 3, 2, 4
SHAPE = (CHANNELS, 8, 8)


class ExactSinusoid(nn.Module):
    """DiT's own time table in float64: theirs is float32 and has the last frequency at 1 / 10,000."""

    def forward(self, t: Tensor) -> Tensor:
        angle = t.double()[:, None] * 10_000.0 ** -(torch.arange(128, dtype=torch.float64) / 128)
        return torch.cat([angle.cos(), angle.sin()], dim=1)


def their_model() -> nn.Module:
    torch.manual_seed(0)
    theirs = diffusers().DiTTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        num_layers=DEPTH,
        sample_size=SHAPE[1],
        patch_size=PATCH,
        num_embeds_ada_norm=CLASSES,
        norm_eps=1e-6,
    )
    theirs = theirs.double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    shared = theirs.transformer_blocks[0].norm1.emb  # they hold one embedding a block, DiT has one for all
    shared.time_proj = ExactSinusoid()
    for block in theirs.transformer_blocks:
        block.norm1.emb = shared
    theirs.pos_embed.pos_embed = sincos_positions(4, 4, WIDTH, torch.empty(0, dtype=torch.float64))[None]
    return theirs


BLOCK = {
    "embed": "norm1.linear",
    "attention.out": "attn1.to_out.0",
    "mlp.first": "ff.net.0.proj",
    "mlp.second": "ff.net.2",
}
ENDS = {"norm.embed": "proj_out_1", "stem": "pos_embed.proj", "head": "proj_out_2"}
EMBEDDING = {"first": "timestep_embedder.linear_1", "second": "timestep_embedder.linear_2"}


def copy_weights(ours: Transformer, theirs: nn.Module) -> None:
    state = theirs.state_dict()
    left = {name: value for name, value in state.items() if ".norm1.emb." not in name and "pos_embed.pos" not in name}
    emb = theirs.transformer_blocks[0].norm1.emb.state_dict()
    filled = {"embedding.classes.weight": emb.pop("class_embedder.embedding_table.weight")}
    for kind in ("weight", "bias"):
        filled |= {
            f"embedding.{name}.{kind}": emb.pop(f"{their_name}.{kind}") for name, their_name in EMBEDDING.items()
        }
        filled |= {f"{name}.{kind}": left.pop(f"{their_name}.{kind}") for name, their_name in ENDS.items()}
        for index in range(DEPTH):
            mine, yours = f"blocks.{index}", f"transformer_blocks.{index}"
            filled |= {f"{mine}.{name}.{kind}": left.pop(f"{yours}.{part}.{kind}") for name, part in BLOCK.items()}
            qkv = [left.pop(f"{yours}.attn1.{part}.{kind}") for part in ("to_q", "to_k", "to_v")]
            filled[f"{mine}.attention.qkv.{kind}"] = torch.cat(qkv)
        # the head's outputs are (row, column, channel) of a patch there, (channel, row, column) here
        head = filled[f"head.{kind}"].unflatten(0, (PATCH, PATCH, 2 * CHANNELS))
        filled[f"head.{kind}"] = head.movedim(2, 0).flatten(0, 2)
    filled["stem.weight"] = filled["stem.weight"].flatten(1)
    assert not left and not emb, f"not copied: {sorted(left)} {sorted(emb)}"
    ours.load_state_dict(filled)


def test_forward_equals_diffusers() -> None:
    theirs = their_model()
    config = TransformerConfig.dit_s(channels=WIDTH, num_heads=HEADS, num_blocks=DEPTH)
    ours = build_network(config, SHAPE, ConditionSpec.of_classes(CLASSES), output_factor=2).double().eval()
    copy_weights(ours, theirs)
    x, t = torch.randn(3, *SHAPE, dtype=torch.float64), torch.tensor([3.0, 871.0, 40.0], dtype=torch.float64)
    label = torch.tensor([0, 4, -1])
    with torch.no_grad():
        expected = theirs(x, t, torch.where(label < 0, CLASSES, label)).sample
        found = ours(x, t, Condition(label=label))
    assert expected.std() > 0.1
    assert (found - expected).abs().max() <= 1e-10


def test_positions_equal_theirs() -> None:
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    theirs = get_2d_sincos_pos_embed(24, (3, 5), base_size=5, output_type="pt")
    # theirs stretches each axis to the base size; undo it by asking for positions where both agree: the columns
    ours = sincos_positions(3, 5, 24, torch.empty(0, dtype=torch.float64))
    assert torch.allclose(ours[:, :12], theirs[:, :12].double(), atol=1e-6)
    square = get_2d_sincos_pos_embed(24, 4, base_size=4, output_type="pt")
    assert torch.allclose(sincos_positions(4, 4, 24, ours), square.double(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "depth", "width", "millions"), [("s", 12, 384, 33), ("b", 12, 768, 130), ("l", 24, 1024, 458)]
)
def test_dit_has_its_published_size(name: str, depth: int, width: int, millions: int) -> None:
    """Peebles & Xie 2023, table 4: ImageNet's 1000 classes, 32 x 32 x 4 latents, learned variances, patches of 2."""
    check_dit(getattr(TransformerConfig, f"dit_{name}")(), depth, width, millions)


def test_dit_xl_has_its_published_size() -> None:
    check_dit(TransformerConfig.dit_xl(), 28, 1152, 675)


def check_dit(config: TransformerConfig, depth: int, width: int, millions: int) -> None:
    with torch.device("meta"):
        network = build_network(config, (4, 32, 32), ConditionSpec.of_classes(1000), output_factor=2)
    block = 3 * width * (width + 1) + width * (width + 1) + 8 * width**2 + 5 * width + 6 * width * (width + 1)
    ends = 16 * width + width + 2 * width * (width + 1) + 32 * (width + 1)
    embedding = 256 * width + width + width * (width + 1) + 1001 * width
    assert count(network) == depth * block + ends + embedding
    # theirs counts its table of positions, 256 tokens, though it does not learn it
    assert math.isclose((count(network) + 256 * width) / 1e6, millions, abs_tol=0.6)


def test_uvit_has_its_published_size_but_for_what_differs() -> None:
    """Bao et al. 2023, table 2: 44M on CIFAR-10, with learned positions, no perceptron for time, no qkv biases."""
    with torch.device("meta"):
        network = build_network(TransformerConfig.uvit_s(), (3, 32, 32))
    width = 512
    extra = 256 * width + width + width * (width + 1) + 13 * 3 * width
    missing = (256 + 1) * width
    assert count(network) - extra + missing == 44_255_328
    assert round(44_255_328 / 1e6) == 44


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
