"""Warn before a training whose process does not end in noise, which biases samples."""

from __future__ import annotations

import math

import torch

from undiffuse.config import ComponentConfig, build
from undiffuse.core.processes import PROCESSES
from undiffuse.core.terminal_noise import options_ending_in_noise, terminal_noise
from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.observer import note

#: Number of items for estimating the scale of the data.
_LOOKED_AT = 256


def note_residual_signal(system: ComponentConfig, training: Dataset) -> None:
    """Warn if the process keeps enough signal at t = 1 to bias samples; nothing for systems without a process.

    Args:
        system: configuration of the trained system.
        training: data, whose mean and standard deviation matter.
    """
    process = getattr(system, "process", None)
    if not isinstance(process, ComponentConfig):
        return
    end = terminal_noise(build(PROCESSES, process))
    if end.log_snr < -20:  # data of no scale would matter
        return
    deviation, scale = _spread(training)
    if not end.biases_samples(deviation, math.sqrt(max(scale**2 - deviation**2, 0.0))):
        return
    options = options_ending_in_noise(PROCESSES[process.name], process.model_dump(exclude={"name"}), scale)
    ways = [f"system.process.{key}={value:g}" for key, value in options.items()]
    note(f"system.process {process.name} ends at {end.consequence(deviation)}; say {' or '.join(ways)}")


def _spread(training: Dataset) -> tuple[float, float]:
    """(standard deviation about each coordinate's mean, root mean square) of training items."""
    if len(training) == 0:
        return 0.5, 1.0
    x_0 = training.fetch(evenly_spaced(len(training), _LOOKED_AT)).x_0.flatten(1).to(torch.float64)
    return float(x_0.var(0, correction=0).mean().sqrt()), float(x_0.square().mean().sqrt())
