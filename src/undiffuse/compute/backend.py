"""Options of the compute backend, chosen by the hardware or by the environment variable ``UNDIFFUSE_COMPUTE``.

``UNDIFFUSE_COMPUTE=copies=off,graphs=off`` overrides single options; the variable is read at every use. The options are
not part of a model: they only affect the speed at which the same function is computed.
"""

from __future__ import annotations

import os
from typing import Literal

import torch

from undiffuse.compute.hardware import hardware
from undiffuse.config import FrozenModel, validate
from undiffuse.errors import UsageError

#: The environment variable with the options, comma-separated ``key=value``.
VARIABLE = "UNDIFFUSE_COMPUTE"


class ComputeConfig(FrozenModel):
    """Options of the backend.

    Args:
        bf16: ``auto`` computes in bfloat16 if the model requests it and the hardware is fast at it; ``always`` if the
            model requests it; ``never`` computes in float32.
        copies: sample with a copy of the weights that is cast once; otherwise they are cast at every call.
        fused: use the fused norm kernels of this package if they can be compiled; otherwise torch's.
        graphs: capture a forward pass on CUDA once and replay it.
        waiting: wait policy of OpenMP threads: ``auto`` sleeps while other processes use the cores and spins otherwise;
            ``sleep`` and ``spin`` fix one of the two. Results do not depend on it.
        memory: keep freed memory in the process for the next forward pass; otherwise the C library returns it to the
            operating system.
    """

    bf16: Literal["auto", "always", "never"] = "auto"
    copies: Literal["auto", "off"] = "auto"
    fused: Literal["auto", "off"] = "auto"
    graphs: Literal["auto", "off"] = "auto"
    memory: Literal["auto", "off"] = "auto"
    waiting: Literal["auto", "sleep", "spin"] = "auto"


def backend() -> ComputeConfig:
    """The current options.

    Raises:
        UsageError: the variable is not a list of ``key=value``, or contains an unknown key or value.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return ComputeConfig()
    pairs = [part.split("=", 1) for part in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise UsageError(f"{VARIABLE}={text!r} is not a list of options; write key=value,key=value such as copies=off")
    return validate(ComputeConfig, {key.strip(): value.strip() for key, value in pairs}, VARIABLE)


def compute_dtype(precision: str, device: torch.device | str) -> torch.dtype | None:
    """The dtype of a network's matrix products, or None for the dtype of its weights.

    Args:
        precision: precision of the model, ``fp32`` or ``bf16``.
        device: device of the model.
    Note:
        On processors without native bfloat16 products, bfloat16 is up to ten times slower than float32, which is used
        instead.
    """
    if precision != "bf16" or (option := backend().bf16) == "never":
        return None
    return torch.bfloat16 if option == "always" or hardware(device).fast_bf16 else None
