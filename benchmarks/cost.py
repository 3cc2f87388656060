"""Floating-point operations of a computation, and the peak throughput of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from interleaved import Candidate, wait
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

#: A training step costs three forward passes: one forward, and backward for inputs and weights.
TRAINING = 3
BF16_CEILING, FP32_CEILING = "ceiling, bf16 convolution", "ceiling, fp32 convolution"
_CHANNELS, _SIDE, _ROWS, _CALLS = 128, 32, 16, 4


def forward_flops(work: Callable[[], object]) -> float:
    """Floating-point operations of ``work``; a multiply-add counts as two."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):  # operations of fused attention are not counted
        work()
    return float(counter.get_total_flops())


def ceilings(device: torch.device | str, smoke: bool = False) -> list[Candidate]:
    """Seconds for 1e12 operations of a 3x3 convolution of 128 channels, in both dtypes, with the best memory layout."""
    channels = 16 if smoke else _CHANNELS
    dtypes = {BF16_CEILING: torch.bfloat16, FP32_CEILING: torch.float32}
    return [Candidate(name, partial(seconds_a_tera, dtype, device, channels)) for name, dtype in dtypes.items()]


@torch.no_grad()
def seconds_a_tera(dtype: torch.dtype, device: torch.device | str, channels: int) -> float:
    layers = nn.Conv2d(channels, channels, 3, padding=1), torch.randn(_ROWS, channels, _SIDE, _SIDE)
    convolution, x = (part.to(device=device, dtype=dtype) for part in layers)
    flops = 2 * 9 * channels**2 * _ROWS * _SIDE**2 * _CALLS
    formats = torch.contiguous_format, torch.channels_last
    return min(_seconds(convolution, x, layout, device) for layout in formats) * 1e12 / flops


def _seconds(convolution: nn.Module, x: Tensor, layout: torch.memory_format, device: torch.device | str) -> float:
    convolution, x = convolution.to(memory_format=layout), x.contiguous(memory_format=layout)
    convolution(x)
    wait(device)
    started = time.perf_counter()
    for _ in range(_CALLS):
        convolution(x)
    wait(device)
    return time.perf_counter() - started
