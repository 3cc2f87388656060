"""Weights kept as 8-bit integers: how far they are from what they were, and files of them read without trust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.models.files import int8
from undiffuse.models.files.int8 import Int8Tensor, as_int8, dequantised, int8_names, quantise
from undiffuse.models.files.weights import read_header, read_weights, save_weights


def weights(*shape: int, spread: float = 1.0, seed: int = 0) -> Tensor:
    """Channels of very different sizes, the first of zeros."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    sizes = torch.logspace(-spread, spread, shape[0]).view(-1, *[1] * (len(shape) - 1))
    drawn = drawn * sizes
    drawn[0] = 0
    return drawn


CASES = {
    "linear": weights(20, 300),
    "convolution": weights(12, 7, 3, 3, spread=4),
    "bfloat16": weights(12, 7, 3, 3, seed=1).bfloat16(),
    "one input": weights(9, 1),
    "below the normal numbers": weights(8, 40) * 1e-38,
    "large": weights(8, 40) * 1e35,
    "halves of a step": torch.arange(-127, 128).float().view(5, 51) / 2,
}


@pytest.mark.parametrize("case", CASES)
def test_no_weight_moves_by_more_than_half_a_step(case: str) -> None:
    """|w - w'| <= s_c / 2, with s_c between largest_c / 127 and 2^-16 more."""
    weight = CASES[case]
    kept = quantise(weight)
    scale = kept.scale.double()
    assert kept.values.dtype == torch.int8 and kept.scale.dtype == torch.float32
    assert kept.values.shape == weight.shape and kept.scale.shape == weight.shape[:1]
    moved = (kept.dequantise().double() - weight.double()).abs().flatten(1)
    assert bool((moved <= scale[:, None] / 2 * (1 + 1e-12)).all())
    largest = weight.double().abs().flatten(1).amax(1)
    least = (largest / 127).clamp(min=torch.finfo(torch.float32).tiny)
    assert bool((scale >= least)[largest > 0].all()) and bool((scale <= least * (1 + 2**-16))[largest > 0].all())
    assert not bool(scale[largest == 0].any()) and not bool(kept.values[largest == 0].any())


@pytest.mark.parametrize("case", CASES)
def test_what_was_integers_becomes_the_same_integers(case: str) -> None:
    kept = quantise(CASES[case])
    products = kept.values.double() * kept.scale.double().view(-1, *[1] * (kept.values.dim() - 1))
    assert torch.equal(kept.dequantise().double(), products)  # float32 holds them
    again = quantise(kept.dequantise())
    assert torch.equal(again.values, kept.values) and torch.equal(again.scale, kept.scale)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_weight_that_no_integer_stands_for_is_rejected_by_name(value: float) -> None:
    weight = weights(4, 5)
    weight[2, 1] = value
    with pytest.raises(UsageError, match=r"stem\.weight has values that are not finite, or above"):
        quantise(weight, "stem.weight")


class Net(nn.Module):
    """A parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(90, 100)
        self.wide = nn.Linear(96, 96)
        self.conv = nn.Conv2d(32, 32, 3)
        self.head = nn.Conv2d(32, 3, 3)
        self.norm = nn.LayerNorm(20_000)
        self.register_buffer("times", torch.rand(90, 100))
        self.register_buffer("count", torch.tensor(3))


def test_large_weights_alone_are_integers() -> None:
    net = Net()
    assert int8_names(net) == {"wide.weight", "conv.weight"}
    kept = as_int8(net, net.state_dict())
    assert {name for name, value in kept.items() if isinstance(value, Int8Tensor)} == int8_names(net)
    types = {name: value.dtype for name, value in kept.items() if isinstance(value, Tensor)}
    assert types.pop("times") == torch.float32 and types.pop("count") == torch.int64
    assert set(types.values()) == {torch.bfloat16}
    net.load_state_dict(dequantised(kept))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    net = Net()
    save_weights(tmp_path / "w.safetensors", as_int8(net, net.state_dict()))
    return tmp_path / "w.safetensors"


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        found: dict[str, str] = opened.metadata()
    return found


def test_a_file_has_integers_in_it_and_is_read_as_numbers(file: Path) -> None:
    inside, read, shapes = load_file(file), read_weights(file), read_header(file).shapes
    assert json.loads(metadata_of(file)["undiffuse"])["format"] == read_header(file).format == "int8_per_channel"
    assert inside["wide.weight.int8"].dtype == torch.int8 and inside["wide.weight.scale"].shape == (96,)
    assert read.keys() == shapes.keys() == Net().state_dict().keys()
    assert all(tuple(value.shape) == shapes[name] for name, value in read.items())
    assert read["wide.weight"].dtype == torch.float32 and read["wide.bias"].dtype == torch.bfloat16
    by_hand = inside["conv.weight.int8"].float() * inside["conv.weight.scale"].view(-1, 1, 1, 1)
    assert torch.equal(read["conv.weight"], by_hand)


def test_it_goes_into_the_same_bytes_again(file: Path, tmp_path: Path) -> None:
    net = Net()
    net.load_state_dict(read_weights(file))
    save_weights(tmp_path / "again.safetensors", as_int8(net, net.state_dict()))
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_a_file_without_integers_is_as_it_always_was(tmp_path: Path) -> None:
    """Names that end like those of integers and scales are names like any others there."""
    tensors = {"a.int8": torch.ones(3, 3).bfloat16(), "a.scale": torch.ones(2), "b": torch.ones(2)}
    save_weights(tmp_path / "w.safetensors", tensors)
    assert metadata_of(tmp_path / "w.safetensors").keys() == {"sha256_of_tensors"}
    assert read_header(tmp_path / "w.safetensors").format is None
    read = read_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(value, tensors[name]) and value.dtype == tensors[name].dtype for name, value in read.items())


def test_no_changed_byte_gives_other_numbers(file: Path) -> None:
    """It is refused in one line; or the checksum or the format is not found any more, and then the numbers are the
    same, or have names that no model has.
    """
    content, valid = file.read_bytes(), read_weights(file)
    header = 8 + int.from_bytes(content[:8], "little")
    drawn = torch.randint(header, len(content), (40,), generator=torch.Generator().manual_seed(0)).tolist()
    rejections = 0
    for place in [*range(header), *drawn, len(content) - 1]:
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        try:
            read = read_weights(file)
        except UsageError as error:
            assert str(file) in str(error) and "\n" not in str(error), place
            rejections += 1
        else:
            assert place < header, place
            same = read.keys() == valid.keys() and all(torch.equal(read[name], value) for name, value in valid.items())
            assert same or read.keys() != valid.keys(), place
    assert rejections > 0.8 * header
    file.write_bytes(content[:-7])
    with pytest.raises(UsageError, match="damaged"):
        read_weights(file)


HARMS: dict[str, Any] = {
    "no scale": lambda inside: inside.pop("wide.weight.scale"),
    "too few scales": lambda inside: inside.update({"wide.weight.scale": torch.ones(95)}),
    "scales of another type": lambda inside: inside.update({"wide.weight.scale": torch.ones(96).double()}),
    "a negative scale": lambda inside: inside["wide.weight.scale"].neg_(),
    "a scale that is no number": lambda inside: inside["wide.weight.scale"].fill_(torch.nan),
    "a scale beyond float32": lambda inside: inside["wide.weight.scale"].fill_(3e38),
    "numbers for integers": lambda inside: inside.update({"wide.weight.int8": torch.ones(96, 96)}),
    "integers of no channels": lambda inside: inside.update({"wide.weight.int8": torch.ones(96).to(torch.int8)}),
    "a weight twice": lambda inside: inside.update({"wide.weight": torch.ones(96, 96)}),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_file_created_by_hand_is_read_without_trust(harm: str, file: Path) -> None:
    inside = load_file(file)
    HARMS[harm](inside)
    save_file(inside, file, {"undiffuse": json.dumps({"format": "int8_per_channel"})})
    with pytest.raises(UsageError, match=r"damaged \(wide\.weight is not int8 with a scale per channel\)"):
        read_weights(file)


def test_a_format_of_a_later_version_is_rejected(file: Path) -> None:
    save_file(load_file(file), file, {"undiffuse": json.dumps({"format": "int4"})})
    with pytest.raises(UsageError, match=r"in the unknown format 'int4'; upgrade undiffuse"):
        read_weights(file)


def test_the_least_bytes() -> None:
    """A weight of 9,216 numbers takes one byte a number, and four a channel."""
    flat = int8.flattened({"w": quantise(weights(96, 96))})
    assert sum(value.numel() * value.element_size() for value in flat.values()) == 96 * 96 + 4 * 96
