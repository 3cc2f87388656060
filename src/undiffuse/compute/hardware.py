"""Hardware capabilities, as reported by torch."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Hardware:
    """Properties of a device that affect the choice of precision and kernels.

    Args:
        device: ``cpu`` or ``cuda``.
        name: name of the processor, as reported by the system.
        threads: number of threads of one operation.
        fast_bf16: whether the hardware has bfloat16 products with float32 accumulation.
        capability: (major, minor) of a CUDA device; None for a CPU.
    """

    device: str
    name: str
    threads: int
    fast_bf16: bool
    capability: tuple[int, int] | None = None


def hardware(device: torch.device | str = "cpu") -> Hardware:
    """The properties of ``device``.

    Example:
        >>> hardware("cpu").device
        'cpu'
    """
    device = torch.device(device)
    if device.type == "cuda":
        return _cuda_hardware(device.index if device.index is not None else torch.cuda.current_device())
    return Hardware("cpu", platform.processor() or platform.machine(), torch.get_num_threads(), _cpu_has_bf16())


@cache
def _cuda_hardware(index: int) -> Hardware:
    major, minor = torch.cuda.get_device_capability(index)
    name = torch.cuda.get_device_name(index)
    return Hardware("cuda", name, torch.get_num_threads(), torch.cuda.is_bf16_supported(False), (major, minor))


@cache
def _cpu_has_bf16() -> bool:
    """Whether the CPU has AVX512-BF16, AMX or the ARM equivalent; otherwise every product converts from bfloat16."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return bool(torch._C._has_mkldnn) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)
