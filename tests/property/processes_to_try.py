"""Processes and times for hypothesis: every row of the registry, with options, and one given by its pair alone."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, DiscreteVP, EDMProcess, GeometricVE, RescaledProcess


class PairAlone(Process):
    """Only alpha and sigma are given, those of a sub-VP process: everything else is the base class's."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-4 * t.double() ** 2 - 0.1 * t.double())

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-8 * t.double() ** 2 - 0.2 * t.double())


class Warped(Process):
    """``base`` with its clock running differently: time t is what was t^power before."""

    def __init__(self, base: Process, power: float) -> None:
        self.base, self.power = base, power

    @property
    def prior_std(self) -> float:
        return self.base.prior_std

    def alpha(self, t: Tensor) -> Tensor:
        return self.base.alpha(t.double() ** self.power)

    def sigma(self, t: Tensor) -> Tensor:
        return self.base.sigma(t.double() ** self.power)


PROCESSES_TO_TRY: dict[str, Process] = {
    **{name: make() for name, make in PROCESSES.items()},
    "ddpm_linear_200": DiscreteVP.linear(200),
    "one_step": DiscreteVP([0.3]),
    "ncsn_10": GeometricVE(10, 0.01, 1.0),
    "edm_1": EDMProcess(1.0),
    "pair_alone": PairAlone(),
    "rescaled_flow": RescaledProcess(PROCESSES["flow"](), 2.0),
    "rescaled_vp": RescaledProcess(PROCESSES["vp"](), 0.5),
}

processes = st.sampled_from(sorted(PROCESSES_TO_TRY)).map(PROCESSES_TO_TRY.__getitem__)


def times(low: float = 0.0, high: float = 1.0, size: int = 6) -> st.SearchStrategy[Tensor]:
    """``(size,)`` float64 in [low, high], in no order."""
    number = st.floats(low, high, allow_subnormal=False).filter(lambda t: t == 0 or t > 1e-12)
    return st.lists(number, min_size=size, max_size=size).map(lambda ts: torch.tensor(ts, dtype=torch.float64))


def away_from_knots(t: Tensor) -> Tensor:
    """Moved off multiples of 1/1000 and 1/200, where a discrete process has kinks."""
    position = t * 1000
    nearest = position.round()
    return torch.where((position - nearest).abs() < 0.01, (nearest.clamp(0, 999) + 0.3) / 1000, t)


def smallest_log_snr(process: Process) -> float:
    """lambda(1), or a number well below what matters where that is -inf."""
    return max(float(process.log_snr(torch.ones(1))), -2 * math.log(1e4))
