"""What the hardware at hand can do, as far as torch knows."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Hardware:
    """What bears on how arithmetic is best done on one device.

    Args:
        device: ``cpu`` or ``cuda``.
        name: of the processor, as far as the system tells.
        threads: that one operation may use.
        fast_bf16: products of bfloat16 numbers are summed in float32 by the hardware itself.
        capability: (major, minor) of a CUDA device; None for a CPU.
    """

    device: str
    name: str
    threads: int
    fast_bf16: bool
    capability: tuple[int, int] | None = None


def hardware(device: torch.device | str = "cpu") -> Hardware:
    """What ``device`` has.

    Example:
        >>> hardware("cpu").device
        'cpu'
    """
    device = torch.device(device)
    if device.type == "cuda":
        return _card(device.index if device.index is not None else torch.cuda.current_device())
    return Hardware("cpu", platform.processor() or platform.machine(), torch.get_num_threads(), _cpu_has_bf16())


@cache
def _card(index: int) -> Hardware:
    major, minor = torch.cuda.get_device_capability(index)
    name = torch.cuda.get_device_name(index)
    return Hardware("cuda", name, torch.get_num_threads(), torch.cuda.is_bf16_supported(False), (major, minor))


@cache
def _cpu_has_bf16() -> bool:
    """AVX512-BF16, AMX, or what an ARM processor has of the kind; elsewhere bfloat16 is converted in every product."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return bool(torch._C._has_mkldnn) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)
