"""The backend: how networks are computed, by what the hardware has or by the variable ``UNDIFFUSE_COMPUTE``.

``UNDIFFUSE_COMPUTE=copies=off,graphs=off`` overrides single options; it is read at every use. None of them is part of a
model: they decide how fast the same function is computed.
"""

from __future__ import annotations

import os
from typing import Literal

import torch

from undiffuse.compute.hardware import hardware
from undiffuse.config import FrozenModel, validate
from undiffuse.errors import UsageError

#: The environment variable with options, ``key=value`` separated by commas.
VARIABLE = "UNDIFFUSE_COMPUTE"


class ComputeConfig(FrozenModel):
    """Options of the backend.

    Args:
        bf16: ``auto`` calculates in bfloat16 where a model requests it and the hardware is fast at it; ``always``
            wherever a model requests it; ``never`` in float32.
        copies: sample with a copy of the weights that is cast once; otherwise they are cast at every call.
        fused: normalise and activate maps by kernels of our own where they can be compiled; otherwise by torch's.
        graphs: record a forward pass on CUDA once and replay it.
        waiting: ``auto`` lets threads that wait for each other sleep while other processes compute and spin otherwise;
            ``sleep`` and ``spin`` fix one of the two. It changes no result.
        memory: keep what is freed for the next forward pass; otherwise the C library gives it back to the system.
    """

    bf16: Literal["auto", "always", "never"] = "auto"
    copies: Literal["auto", "off"] = "auto"
    fused: Literal["auto", "off"] = "auto"
    graphs: Literal["auto", "off"] = "auto"
    memory: Literal["auto", "off"] = "auto"
    waiting: Literal["auto", "sleep", "spin"] = "auto"


def backend() -> ComputeConfig:
    """The options in force.

    Raises:
        UsageError: the variable is no list of ``key=value``, or names an unknown key or value.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return ComputeConfig()
    pairs = [part.split("=", 1) for part in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise UsageError(f"{VARIABLE}={text!r} is no list of choices; write key=value,key=value such as copies=off")
    return validate(ComputeConfig, {key.strip(): value.strip() for key, value in pairs}, VARIABLE)


def compute_dtype(precision: str, device: torch.device | str) -> torch.dtype | None:
    """The dtype of a network's products, or None for that of its weights.

    Args:
        precision: of the model, ``fp32`` or ``bf16``.
        device: where it runs.
    Note:
        A processor without bfloat16 products is up to ten times slower with them than in float32, so it gets float32.
    """
    if precision != "bf16" or (option := backend().bf16) == "never":
        return None
    return torch.bfloat16 if option == "always" or hardware(device).fast_bf16 else None
