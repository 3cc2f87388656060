"""The check that every objective of one denoising network makes of its configuration: its components can be built."""

from __future__ import annotations

from typing import Any

import torch

from undiffuse.config import build
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.losses.weighting import WEIGHTINGS


def check_components(config: Any) -> Process:
    """Build the process, the weighting (where there is one) and the time density of a configuration.

    Args:
        config: an objective's configuration with ``process`` and ``time_density``, and perhaps ``weighting``, each a
            row of its registry; a ``weighting`` that is no row (a name alone) is the objective's own.
    Returns:
        The process.
    Raises:
        UsageError: options that a row refuses, or a time density that does not go with the process.
    """
    process: Process = build(PROCESSES, config.process)
    weighting = getattr(config, "weighting", None)
    if weighting is not None and not isinstance(weighting, str):
        build(WEIGHTINGS, weighting)
    build(TIME_DENSITIES, config.time_density)(process, torch.full((1,), 0.5))
    return process
