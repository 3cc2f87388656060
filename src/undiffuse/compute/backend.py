"""How arithmetic is done: chosen by what the machine has, unless the variable ``UNDIFFUSE_COMPUTE`` says otherwise.

``UNDIFFUSE_COMPUTE=copies=off,graphs=off`` turns single choices; it is read at every use. None of them is part of a
model: they say how fast the same function is computed.
"""

from __future__ import annotations

import os
from typing import Literal

import torch

from undiffuse.compute.hardware import hardware
from undiffuse.config import FrozenModel, validate
from undiffuse.errors import UsageError

#: The environment variable with choices, ``key=value`` separated by commas.
VARIABLE = "UNDIFFUSE_COMPUTE"


class ComputeConfig(FrozenModel):
    """What may be chosen.

    Args:
        bf16: ``auto`` calculates in bfloat16 where a model asks for it and the machine is fast at it; ``always``
            wherever a model asks for it; ``never`` in float32.
        copies: sample with a copy of the weights that is cast once; otherwise they are cast in every evaluation.
        fused: normalise and activate maps by kernels of our own where they can be compiled; otherwise by torch's.
        graphs: record an evaluation on CUDA once and replay it.
        waiting: ``auto`` lets threads that wait for each other sleep beside other work and spin on a machine of their
            own; ``sleep`` and ``spin`` say which. It changes no result.
        memory: keep what is freed for the next evaluation; otherwise the C library gives it back to the system.
    """

    bf16: Literal["auto", "always", "never"] = "auto"
    copies: Literal["auto", "off"] = "auto"
    fused: Literal["auto", "off"] = "auto"
    graphs: Literal["auto", "off"] = "auto"
    memory: Literal["auto", "off"] = "auto"
    waiting: Literal["auto", "sleep", "spin"] = "auto"


def backend() -> ComputeConfig:
    """The choices in force.

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
        precision: what a model asks for, ``fp32`` or ``bf16``.
        device: where it runs.
    Note:
        A processor without bfloat16 products is up to ten times slower with them than in float32, so it gets float32.
    """
    if precision != "bf16" or (choice := backend().bf16) == "never":
        return None
    return torch.bfloat16 if choice == "always" or hardware(device).fast_bf16 else None
