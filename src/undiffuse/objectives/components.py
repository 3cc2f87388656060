"""Check shared by all objectives of one denoising network: the components of the configuration can be built."""

from __future__ import annotations

from typing import Any

from undiffuse.config import build
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.losses.weighting import WEIGHTINGS


def check_components(config: Any) -> Process:
    """Build the process, the weighting (if any) and the time density of a configuration.

    Args:
        config: an objective's configuration with ``process``, ``time_density`` and optionally ``weighting``, each an
            entry of its registry; a ``weighting`` that is a string is handled by the objective.
    Returns:
        The process.
    Raises:
        UsageError: if options of a component are invalid.
    """
    process: Process = build(PROCESSES, config.process)
    weighting = getattr(config, "weighting", None)
    if weighting is not None and not isinstance(weighting, str):
        build(WEIGHTINGS, weighting)
    build(TIME_DENSITIES, config.time_density)
    return process
