"""The compute environment: everything besides the model that affects rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from undiffuse.compute.backend import compute_dtype
from undiffuse.compute.hardware import hardware
from undiffuse.compute.native.build import compiler_name
from undiffuse.compute.threaded_batch import has_fused_norm
from undiffuse.wording import count_noun

_FORMATS = {
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
    """The current compute environment.

    Args:
        precision: precision of the model, ``fp32`` or ``bf16``; the availability of the fused norm is checked for
            ``bf16`` only, since the check compiles its kernels.
        device: device of the model.
        optimizer: dtype of the optimizer's matrix products, if it has any.
    """
    device = torch.device(device)
    dtype = compute_dtype(precision, device)
    fused = dtype is not None and device.type == "cpu" and has_fused_norm()
    return {
        "device": device.type if device.type == "cpu" else hardware(device).name,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "arithmetic": _name(dtype or torch.float32),
        **({"optimizer": _name(optimizer)} if optimizer else {}),
        "norms": "own" if fused else "torch's",
        "compiler": compiler_name() if fused else None,
        "torch": torch.__version__,
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str]:
    """Describe the differing entries of two environments, as one text for each; empty texts if they are equal."""
    keys = [key for key in _FORMATS if key in before and before[key] != now.get(key)]
    return _describe(before, keys), _describe(now, keys)


def _describe(environment: Mapping[str, Any], keys: list[str]) -> str:
    values = {key: environment[key] for key in keys if environment.get(key) is not None}
    return ", ".join(
        count_noun(value, "thread") if key == "threads" else _FORMATS[key].format(value)
        for key, value in values.items()
    )
