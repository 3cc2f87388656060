"""undiffuse: train, sample, measure, study and serve image generators built on diffusion.

    import undiffuse

    model = undiffuse.load("runs/demo")
    images = model.sample(16, steps=20, seed=0)   # uint8 (16, C, H, W)

The names below are imported lazily, on first use, so that ``import undiffuse`` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from undiffuse.api import VERBS
from undiffuse.registry import resolve
from undiffuse.version import __version__

if TYPE_CHECKING:
    from undiffuse.api.comparing import compare
    from undiffuse.api.datasets.preparing import prepare
    from undiffuse.api.distilling import distill
    from undiffuse.api.evaluating import evaluate
    from undiffuse.api.examining import doctor
    from undiffuse.api.exporting import export
    from undiffuse.api.inverting import invert
    from undiffuse.api.loading import load
    from undiffuse.api.reporting import report
    from undiffuse.api.sampling import sample
    from undiffuse.api.studying import study
    from undiffuse.api.training import train
    from undiffuse.cancellation import Cancel
    from undiffuse.core.condition import Condition
    from undiffuse.core.denoiser import Denoiser
    from undiffuse.core.gaussian import GaussianMixture
    from undiffuse.core.process import Process
    from undiffuse.core.processes import VPSDE, DiscreteVP, EDMProcess, FlowProcess
    from undiffuse.losses.variational import variational_bound
    from undiffuse.models.sample_sets.image_record import read_record
    from undiffuse.models.samples import Samples
    from undiffuse.models.saved import Model, save_wrapped
    from undiffuse.models.wrapped import WrappedModel
    from undiffuse.samplers import make_sampler
    from undiffuse.samplers.base import sample as run_sampler
    from undiffuse.samplers.grids import time_grid


#: Public names and the modules that define them.
_LAZY_NAMES = {
    **VERBS,
    "Cancel": "undiffuse.cancellation:Cancel",
    "load": "undiffuse.api.loading:load",
    "Model": "undiffuse.models.saved:Model",
    "Samples": "undiffuse.models.samples:Samples",
    "Condition": "undiffuse.core.condition:Condition",
    "Denoiser": "undiffuse.core.denoiser:Denoiser",
    "GaussianMixture": "undiffuse.core.gaussian:GaussianMixture",
    "Process": "undiffuse.core.process:Process",
    "DiscreteVP": "undiffuse.core.processes:DiscreteVP",
    "EDMProcess": "undiffuse.core.processes:EDMProcess",
    "FlowProcess": "undiffuse.core.processes:FlowProcess",
    "VPSDE": "undiffuse.core.processes:VPSDE",
    "variational_bound": "undiffuse.losses.variational:variational_bound",
    "read_record": "undiffuse.models.sample_sets.image_record:read_record",
    "WrappedModel": "undiffuse.models.wrapped:WrappedModel",
    "save_wrapped": "undiffuse.models.saved:save_wrapped",
    "make_sampler": "undiffuse.samplers:make_sampler",
    "run_sampler": "undiffuse.samplers.base:sample",
    "time_grid": "undiffuse.samplers.grids:time_grid",
}

__all__ = [
    "VPSDE",
    "Cancel",
    "Condition",
    "Denoiser",
    "DiscreteVP",
    "EDMProcess",
    "FlowProcess",
    "GaussianMixture",
    "Model",
    "Process",
    "Samples",
    "WrappedModel",
    "__version__",
    "compare",
    "distill",
    "doctor",
    "evaluate",
    "export",
    "invert",
    "load",
    "make_sampler",
    "prepare",
    "read_record",
    "report",
    "run_sampler",
    "sample",
    "save_wrapped",
    "study",
    "time_grid",
    "train",
    "variational_bound",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY_NAMES:
        return resolve(_LAZY_NAMES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
