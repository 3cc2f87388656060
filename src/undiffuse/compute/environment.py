"""The environment of a computation: what rounding depends on apart from the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from undiffuse.compute.backend import compute_dtype
from undiffuse.compute.hardware import hardware
from undiffuse.compute.native.build import compiler_name
from undiffuse.compute.threaded_batch import has_fused_norm
from undiffuse.wording import counted

_WORDS = {
    "device": "{}",
    "cpu": "{} instructions",
    "threads": "",
    "arithmetic": "{} products",
    "optimizer": "{} products in the optimizer",
    "norms": "{} norms",
    "compiler": "compiled by {}",
    "torch": "torch {}",
}


def compute_environment(
    precision: str, device: torch.device | str, optimizer: torch.dtype | None = None
) -> dict[str, Any]:
    """How networks are computed here.

    Args:
        precision: of the model, ``fp32`` or ``bf16``; whether the fused norm is available is found out for the latter
            alone, since its kernels are compiled for that.
        device: where it runs.
        optimizer: what the optimizer multiplies matrices in, where it does.
    """
    device = torch.device(device)
    dtype = compute_dtype(precision, device)
    own = dtype is not None and device.type == "cpu" and has_fused_norm()
    return {
        "device": device.type if device.type == "cpu" else hardware(device).name,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "arithmetic": _name(dtype or torch.float32),
        **({"optimizer": _name(optimizer)} if optimizer else {}),
        "norms": "own" if own else "torch's",
        "compiler": compiler_name() if own else None,
        "torch": torch.__version__,
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def differing_words(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str]:
    """In what two settings differ, in words each; two empty texts where they do not."""
    keys = [key for key in _WORDS if key in before and before[key] != now.get(key)]
    return _said(before, keys), _said(now, keys)


def _said(one: Mapping[str, Any], keys: list[str]) -> str:
    known = [key for key in keys if one.get(key) is not None]
    return ", ".join(counted(one[key], "thread") if key == "threads" else _WORDS[key].format(one[key]) for key in known)
