"""The transformer against its equations written out, and what its positions must be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.networks import TransformerConfig, build_network
from undiffuse.networks.transformer import Transformer, sincos_positions

WIDTH, HEADS = 8, 2
EMPTY = torch.empty(0, dtype=torch.float64)


def network(shape: tuple[int, int, int] = (1, 4, 4), **options: object) -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(channels=WIDTH, num_heads=HEADS, patch_size=2, time_channels=8, **options)
    net = build_network(config, shape, ConditionSpec.of_classes(3)).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return net


def softmax_attention(part: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Every head by itself, with the softmax written out."""
    qkv, size, heads = part.qkv(tokens), WIDTH // HEADS, []
    for head in range(HEADS):
        at = slice(head * size, (head + 1) * size)
        query, key, value = (qkv[..., start * WIDTH : (start + 1) * WIDTH][..., at] for start in range(3))
        weights = torch.exp(query @ key.transpose(1, 2) / math.sqrt(size))
        heads.append(weights / weights.sum(-1, keepdim=True) @ value)
    return part.out(torch.cat(heads, dim=2))


def normed(tokens: Tensor) -> Tensor:
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6)


def perceptron(part: torch.nn.Module, tokens: Tensor) -> Tensor:
    h = part.first(tokens)
    gelu = h / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    return part.second(gelu)


def test_an_adaptive_block_is_its_equation() -> None:
    block = network(num_blocks=1).blocks[0]
    tokens, embedding = torch.randn(2, 5, WIDTH).double(), torch.randn(2, WIDTH).double()
    table = (embedding @ block.embed.weight.T + block.embed.bias).unflatten(1, (6, WIDTH))[:, :, None]
    shift1, scale1, gate1, shift2, scale2, gate2 = table.unbind(1)
    h = tokens + gate1 * softmax_attention(block.attention, normed(tokens) * (1 + scale1) + shift1)
    expected = h + gate2 * perceptron(block.mlp, normed(h) * (1 + scale2) + shift2)
    assert torch.allclose(block(tokens, embedding), expected, atol=1e-12)


@pytest.mark.parametrize("conditioning", ["adaln", "tokens"])
def test_long_skips_join_the_outermost_blocks(conditioning: str) -> None:
    """Five blocks: 0 to 4 and 1 to 3, with the middle one alone; tokens of time and class come first."""
    net = network(num_blocks=5, conditioning=conditioning, long_skips=True)
    x, c_noise, cond = torch.randn(2, 1, 4, 4).double(), torch.tensor([3.0, 90.0]), Condition(torch.tensor([1, -1]))
    tokens = net.stem(F.unfold(x, 2, stride=2).transpose(1, 2)) + sincos_positions(2, 2, WIDTH, EMPTY)
    time, label = net.embedding.parts(c_noise.double(), cond)
    embedding = F.silu(time + label)
    if conditioning == "tokens":
        tokens = torch.cat([time[:, None], label[:, None], tokens], dim=1)
    a = net.blocks[0](tokens, embedding)
    b = net.blocks[1](a, embedding)
    c = net.blocks[2](b, embedding)
    d = net.blocks[3](net.skips[0].linear(torch.cat([c, b], dim=2)), embedding)
    e = net.blocks[4](net.skips[1].linear(torch.cat([d, a], dim=2)), embedding)
    last = net.head(net.norm(e[:, -4:], embedding)).transpose(1, 2)
    assert torch.allclose(net(x, c_noise.double(), cond), F.fold(last, (4, 4), 2, stride=2), atol=1e-12)


@pytest.mark.parametrize("conditioning", ["adaln", "tokens"])
def test_patches_and_positions_together_can_be_shuffled(conditioning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without positions, permuted patches give permuted patches: tokens know their place by nothing else."""
    net = network((1, 2, 8), num_blocks=2, conditioning=conditioning)
    x, arguments = torch.randn(1, 1, 2, 8).double(), (torch.tensor([5.0]).double(), Condition())
    patches = x.unflatten(3, (4, 2))
    shuffled = patches[:, :, :, [2, 0, 3, 1]].flatten(3)
    before = net(x, *arguments).unflatten(3, (4, 2))[:, :, :, [2, 0, 3, 1]].flatten(3)
    assert not torch.allclose(net(shuffled, *arguments), before, atol=1e-3)
    monkeypatch.setattr("undiffuse.networks.transformer.sincos_positions", lambda *grid: 0.0)
    before = net(x, *arguments).unflatten(3, (4, 2))[:, :, :, [2, 0, 3, 1]].flatten(3)
    assert torch.allclose(net(shuffled, *arguments), before, atol=1e-12)


def test_positions_are_sines_and_cosines_of_column_and_row() -> None:
    table = sincos_positions(3, 5, 18, EMPTY).view(3, 5, 18)
    for row, column in ((0, 0), (1, 0), (0, 1), (2, 4)):
        for index in range(4):
            frequency = 10_000 ** (-index / 4)
            found = table[row, column, [index, 4 + index, 8 + index, 12 + index]].tolist()
            expected = [function(place * frequency) for place in (column, row) for function in (math.sin, math.cos)]
            assert found == pytest.approx(expected, abs=1e-15)
    assert not table[..., 16:].any(), "what 4 does not divide stays zero"
    product = table.flatten(0, 1) @ table.flatten(0, 1).T
    assert product[0, 6] == pytest.approx(float(product[1, 7]), abs=1e-12), "products depend on differences alone"


def test_padding_is_cut_again_and_weights_serve_every_size() -> None:
    net = network((1, 5, 3), num_blocks=1)
    arguments = (torch.tensor([5.0]).double(), Condition())
    x = torch.randn(1, 1, 5, 3).double()
    out = net(x, *arguments)
    assert out.shape == x.shape
    assert torch.allclose(out, net(F.pad(x, (0, 1, 0, 1)), *arguments)[..., :5, :3], atol=1e-12)
    other = network((1, 9, 4), num_blocks=1)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x, *arguments), out)
