"""Anti-aliased resampling against its closed forms: constants, frequency response, transposes, a plain upfirdn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from undiffuse.networks.resample import FIRConvDown, FIRConvUp, FIRDown, FIRUp

TAPS = np.array([1.0, 3.0, 3.0, 1.0])
SIZES = [(2, 2), (8, 8), (6, 10), (5, 8), (7, 3), (1, 1)]
each_size = pytest.mark.parametrize("size", SIZES, ids=str)


def upfirdn(x: np.ndarray, taps: np.ndarray, up: int, down: int, before: int, after: int) -> np.ndarray:
    """Along the last axis: zeros between and around, the filter, every ``down``-th value, by a loop over outputs."""
    spread = np.zeros((*x.shape[:-1], up * x.shape[-1]))
    spread[..., ::up] = x
    padded = np.concatenate([np.zeros((*x.shape[:-1], before)), spread, np.zeros((*x.shape[:-1], after))], axis=-1)
    starts = range(0, padded.shape[-1] - len(taps) + 1, down)
    return np.stack([(padded[..., start : start + len(taps)] * taps).sum(-1) for start in starts], axis=-1)


def upfirdn_2d(x: np.ndarray, **options: int) -> np.ndarray:
    taps = options["up"] * TAPS / TAPS.sum()
    return upfirdn(upfirdn(x, taps, **options).swapaxes(-1, -2), taps, **options).swapaxes(-1, -2)


def image(size: tuple[int, int], channels: int = 3) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def halved(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 2), -(-size[1] // 2)


@each_size
def test_down_is_upfirdn(size: tuple[int, int]) -> None:
    x = image(size)
    even = np.pad(x.numpy(), [(0, 0), (0, 0), (0, size[0] % 2), (0, size[1] % 2)], mode="edge")
    expected = upfirdn_2d(even, up=1, down=2, before=1, after=1)
    found = FIRDown().double()(x)
    assert found.shape[2:] == halved(size)
    assert np.abs(found.numpy() - expected).max() < 1e-14


@each_size
def test_up_is_upfirdn(size: tuple[int, int]) -> None:
    x = image(halved(size))
    expected = upfirdn_2d(x.numpy(), up=2, down=1, before=2, after=1)[..., : size[0], : size[1]]
    found = FIRUp().double()(x, size)
    assert found.shape[2:] == size
    assert np.abs(found.numpy() - expected).max() < 1e-14


def test_a_constant_stays_up_to_the_zeros_around() -> None:
    one = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    edge = torch.tensor([7 / 8, *[1.0] * 2, 7 / 8], dtype=torch.float64)
    assert torch.equal(FIRDown().double()(one)[0, 0], torch.outer(edge, edge))
    edge = torch.tensor([3 / 4, *[1.0] * 14, 3 / 4], dtype=torch.float64)
    assert torch.equal(FIRUp().double()(one, (16, 16))[0, 0], torch.outer(edge, edge))
    assert torch.equal(FIRUp().double()(FIRDown().double()(one), (8, 8))[0, 0, 3:-3, 3:-3], one[0, 0, 3:-3, 3:-3])


@pytest.mark.parametrize("cycles", [0, 1, 5, 8, 13, 16])
def test_waves_pass_by_the_filters_response(cycles: int) -> None:
    """cos(w (n + 1/2)) comes down as |cos(w / 2)|^3 cos(2 w (i + 1/2)): the finest stripes, w = pi, are gone."""
    w = 2 * math.pi * cycles / 32
    n, i = torch.arange(32, dtype=torch.float64) + 0.5, torch.arange(16, dtype=torch.float64) + 0.5
    wave = torch.cos(w * n).expand(1, 1, 32, 32)
    found = FIRDown().double()(wave)[0, 0, 2:-2, 1:-1]
    assert torch.allclose(found, (math.cos(w / 2) ** 3 * torch.cos(2 * w * i))[1:-1].expand_as(found), atol=1e-14)


def test_what_would_alias_is_damped_more_than_by_a_mean_of_two() -> None:
    w = 2 * math.pi * 13 / 32  # above half the coarse grid's own limit
    wave = torch.cos(w * (torch.arange(32, dtype=torch.float64) + 0.5)).expand(1, 1, 32, 32)
    mean = torch.nn.functional.avg_pool2d(wave, 2)[0, 0, 8, 1:-1]
    found = FIRDown().double()(wave)[0, 0, 8, 1:-1]
    assert torch.allclose(found, math.cos(w / 2) ** 2 * mean, atol=1e-14)


@pytest.mark.parametrize("size", [(2, 2), (8, 8), (6, 10)], ids=str)
def test_up_is_four_times_the_transpose_of_down(size: tuple[int, int]) -> None:
    x, y = image(size), image(halved(size))
    down, up = FIRDown().double()(x), FIRUp().double()(y, size)
    assert torch.allclose(4 * (down * y).sum(), (up * x).sum(), rtol=1e-13)


def learned(layer: FIRConvDown | FIRConvUp, weight: Tensor) -> FIRConvDown | FIRConvUp:
    """The layer in float64 with one 3 x 3 filter of one channel and a bias of 1/2."""
    with torch.no_grad():
        layer.conv.weight.copy_(weight)
        bias = layer.bias if isinstance(layer, FIRConvUp) else layer.conv.bias
        bias.fill_(0.5)
    return layer.double()


@each_size
def test_convolving_down_is_filter_then_strided_convolution(size: tuple[int, int]) -> None:
    x, weight = image(size, 1), torch.arange(9.0).reshape(1, 1, 3, 3) - 3
    even = np.pad(x.numpy(), [(0, 0), (0, 0), (0, size[0] % 2), (0, size[1] % 2)], mode="edge")
    smooth = upfirdn_2d(even, up=1, down=1, before=2, after=2)
    rows, columns = halved(size)
    expected = np.zeros((2, 1, rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = smooth[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            expected[:, :, i, j] = (window * weight[0].double().numpy()).sum((2, 3)) + 0.5
    found = learned(FIRConvDown(1, 1), weight)(x)
    assert found.shape[2:] == (rows, columns)
    assert np.abs(found.detach().numpy() - expected).max() < 1e-13


@each_size
def test_convolving_up_is_transposed_convolution_then_filter(size: tuple[int, int]) -> None:
    x, weight = image(halved(size), 1), torch.arange(9.0).reshape(1, 1, 3, 3) - 3
    rows, columns = halved(size)
    spread = np.zeros((2, 1, 2 * rows + 1, 2 * columns + 1))
    for i in range(rows):
        for j in range(columns):
            spread[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += x[:, :, i, j, None, None].numpy() * weight[0].numpy()
    expected = 4 * upfirdn_2d(spread, up=1, down=1, before=1, after=1)[..., : size[0], : size[1]]
    found = learned(FIRConvUp(1, 1), weight)(x, size)
    assert found.shape[2:] == size
    assert np.abs(found.detach().numpy() - 0.5 - expected).max() < 1e-13


def test_gradients() -> None:
    x = image((3, 4), 2).requires_grad_()
    assert torch.autograd.gradcheck(FIRDown().double(), (x,))
    assert torch.autograd.gradcheck(lambda h: FIRUp().double()(h, (5, 8)), (x,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    x = image((8, 6)).to(dtype)
    down, up = FIRDown(), FIRUp()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(down(x), down(x.float()).to(dtype)) and down(x).dtype == dtype
        assert torch.equal(up(x, (16, 12)), up(x.float(), (16, 12)).to(dtype))


def test_nothing_is_saved_and_an_empty_batch_passes() -> None:
    down, up = FIRDown(), FIRUp()
    assert not down.state_dict() and not list(down.parameters())
    assert down(torch.zeros(0, 3, 5, 4)).shape == (0, 3, 3, 2) and up(torch.zeros(0, 3, 3, 2), (5, 4)).shape[0] == 0
