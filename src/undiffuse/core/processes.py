"""The standard forward processes, each a pair (alpha, sigma); see ``core.process`` for the derived quantities.

================  ===========================================  ==============================================
row               alpha(t), sigma(t)                           gives
================  ===========================================  ==============================================
``ddpm_linear``   prod (1 - beta_k), knots at k / T            DDPM (Ho et al. 2020)
``ddpm_cosine``   the same with cosine alpha-bar               improved DDPM (Nichol & Dhariwal 2021)
``cosine``        cos(pi t / 2), sin(pi t / 2)                 continuous cosine (Salimans & Ho 2022)
``vp``            exp(-int beta / 2), sqrt(1 - alpha^2)        VP SDE (Song et al. 2021)
``sub_vp``        exp(-int beta / 2), 1 - alpha^2              sub-VP SDE (Song et al. 2021)
``ve``            1, sigma_min (sigma_max / sigma_min)^t       VE SDE (Song et al. 2021)
``ncsn``          1, geometric levels at the knots k / T       NCSN, SMLD (Song & Ermon 2019)
``edm``           1, sigma_max t                               EDM (Karras et al. 2022)
``flow``          1 - t, t                                     flow matching, rectified flow (Lipman, Liu 2022)
================  ===========================================  ==============================================
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from undiffuse.core.process import Process, derivative
from undiffuse.core.process_limits import (
    INVALID_BETAS,
    check_betas,
    check_cosine,
    check_levels,
    check_linear,
    check_positive,
    check_steps,
)
from undiffuse.errors import UsageError
from undiffuse.registry import make


class VariancePreserving(Process):
    """alpha^2 + sigma^2 = 1, defined by log alpha: no cancellation near t = 0, and finite rates there."""

    prior_std = 1.0  # DDPM samples from N(0, I) although alpha(1) > 0 leaves some signal

    @abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha(t), 0 at t = 0 and decreasing.

        Args:
            t: (B,) times in [0, 1].
        Returns:
            (B,) float64.
        """

    @abstractmethod
    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        """Inverse of ``log_alpha``, clipped to [0, 1].

        Args:
            log_alpha: (B,) at most 0.
        """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self.log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))

    def log_snr(self, t: Tensor) -> Tensor:
        log_alpha2 = 2 * self.log_alpha(t)
        return log_alpha2 - torch.log(-torch.expm1(log_alpha2))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # alpha^2 = sigmoid(lambda)
        return self.time_of_log_alpha(F.logsigmoid(log_snr.double()) / 2)

    def d_log_alpha(self, t: Tensor) -> Tensor:
        return derivative(self.log_alpha, t)

    def diffusion2(self, t: Tensor) -> Tensor:
        return -2 * self.d_log_alpha(t)


class DiscreteVP(VariancePreserving):
    """DDPM's chain of T steps, interpolated to a continuous process with knots at t = k / T.

    -log alpha-bar is linear between knots, so the process is exact at the knots, and ``bridge`` of neighbouring
    knots gives the chain's posterior with beta (``var_max``) and beta-tilde (``var``).

    Args:
        betas: beta_1 ... beta_T, each in (0, 1).
    Raises:
        UsageError: a beta outside (0, 1), or an empty list.
    Source: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239, eqs. 2-7.
    Example:
        >>> process = DiscreteVP.linear(200)
        >>> round(float(process.alpha(torch.tensor([1.0])) ** 2), 4)
        0.1322
    """

    def __init__(self, betas: Tensor | Sequence[float]) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64).detach().cpu()
        if betas.ndim != 1 or len(betas) == 0 or not bool(((betas > 0) & (betas < 1)).all()):
            raise UsageError(INVALID_BETAS)
        self.betas = betas
        knots = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumsum(-torch.log1p(-betas), 0)])
        self._knots = {"cpu": knots}  # -log alpha-bar at k / T; one copy per device

    @classmethod
    def linear(cls, num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> DiscreteVP:
        """Betas evenly spaced, the schedule of DDPM (Ho et al. 2020, sec. 4).

        Args:
            num_steps: T, the length of the chain.
            beta_start, beta_end: beta_1 and beta_T, in (0, 1).
        """
        check_steps(num_steps)
        check_linear(beta_start, beta_end)
        return cls(torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64))

    @classmethod
    def cosine(cls, num_steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> DiscreteVP:
        """alpha-bar a squared cosine, betas clipped (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17).

        Args:
            num_steps: T, the length of the chain.
            offset: s of the paper, at least 0; keeps the first betas from being too small.
            beta_max: upper limit of the betas, in (0, 1).
        """
        check_steps(num_steps)
        check_cosine(offset, beta_max)
        u = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
        return cls((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max))

    @property
    def num_steps(self) -> int:
        """T, the number of steps of the chain."""
        return len(self.betas)

    def _table(self, device: torch.device) -> Tensor:
        key = str(device)
        if key not in self._knots:
            self._knots[key] = self._knots["cpu"].to(device)
        return self._knots[key]

    def log_alpha(self, t: Tensor) -> Tensor:
        table = self._table(t.device)
        position: Tensor = t.double() * self.num_steps
        index = position.detach().long().clamp(0, self.num_steps - 1)
        left, right = table[index], table[index + 1]
        return -0.5 * (left + (position - index) * (right - left))

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        table = self._table(log_alpha.device)
        value = torch.minimum((-2 * log_alpha.double()).clamp(min=0), table[-1])
        index = (torch.searchsorted(table, value.contiguous()) - 1).clamp(0, self.num_steps - 1)
        left, right = table[index], table[index + 1]
        return (index + (value - left) / (right - left)) / self.num_steps


class VPSDE(VariancePreserving):
    """beta(t) rising linearly: log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2.

    Args:
        beta_min, beta_max: noise rates at t = 0 and t = 1, 0 < beta_min <= beta_max.
    Source: Song et al. 2021, arXiv:2011.13456, eqs. 11 and 33.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        check_betas("vp", beta_min, beta_max)
        self.beta_min, self.beta_max = float(beta_min), float(beta_max)

    def log_alpha(self, t: Tensor) -> Tensor:
        t = t.double()
        return -(t**2) * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        # the positive root of a t^2 + b t = c, in a form without cancellation for small c
        a, b, c = (self.beta_max - self.beta_min) / 4, self.beta_min / 2, -log_alpha.double()
        root = 2 * c / (b + torch.sqrt(b * b + 4 * a * c))
        return torch.where(torch.isinf(c), torch.ones_like(c), root).clamp(0, 1)


class CosineProcess(Process):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): the cosine schedule without offset, clipping or steps.

    The log-SNR is -2 log tan(pi t / 2), and v is the velocity along the path up to the factor pi / 2.

    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, sec. 3.2; Salimans & Ho 2022, arXiv:2202.00512, sec. 3.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * (1 - t.double()))  # exactly 0 at t = 1, which the cosine is not

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t.double())

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return (torch.atan(torch.exp(-log_snr.double() / 2)) / (math.pi / 2)).clamp(0, 1)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -math.pi / 2 * self.sigma(t), math.pi / 2 * self.alpha(t)


class SubVPSDE(Process):
    """The alpha of ``VPSDE`` with sigma = 1 - alpha^2, which is below that of the VP SDE at every t.

    Its diffusion is g^2 = beta (1 - alpha^4), the ``1 - exp(-2 int beta)`` of the paper.

    Args:
        beta_min, beta_max: noise rates at t = 0 and t = 1, 0 < beta_min <= beta_max.
    Source: Song et al. 2021, arXiv:2011.13456, eqs. 12 and 29.
    """

    prior_std = 1.0  # N(0, I), as for the VP SDE

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        check_betas("sub_vp", beta_min, beta_max)
        self._signal = VPSDE(beta_min, beta_max)

    def alpha(self, t: Tensor) -> Tensor:
        return self._signal.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self._signal.log_alpha(t))

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (self._signal.log_alpha(t) - torch.log(self.sigma(t)))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # with k = alpha / sigma: k alpha^2 + alpha - k = 0, and log alpha in a form without cancellation
        k = torch.exp(log_snr.double() / 2)
        half = (1 + torch.sqrt(1 + 4 * k**2)) / 2
        log_alpha = torch.where(k > 1, torch.log1p(-1 / half.clamp(min=1.5)) / 2, torch.log(k / half))
        return self._signal.time_of_log_alpha(log_alpha)

    def d_log_alpha(self, t: Tensor) -> Tensor:
        return self._signal.d_log_alpha(t)


class VESDE(Process):
    """alpha = 1, sigma rising geometrically from ``sigma_min`` at t = 0 to ``sigma_max`` at t = 1.

    Noise remains at t = 0: the modelled distribution is the data convolved with N(0, sigma_min^2).

    Args:
        sigma_min, sigma_max: smallest and largest noise level, 0 < sigma_min < sigma_max.
    Source: Song et al. 2021, arXiv:2011.13456, eqs. 9 and 31 (sigma_min and sigma_max of its CIFAR-10 experiments).
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        check_levels("ve", sigma_min, sigma_max)
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self._log_ratio = math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(t.double() * self._log_ratio)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        t: Tensor = (-log_snr.double() / 2 - math.log(self.sigma_min)) / self._log_ratio
        return t.clamp(0, 1)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t, dtype=torch.float64), self._log_ratio * self.sigma(t)


class GeometricVE(Process):
    """The noise levels of a noise-conditional score network: alpha = 1, sigma geometric over the knots k / T.

    The T levels sigma_min ... sigma_max are at the knots 1 / T ... 1; between them log sigma is linear, and below the
    first knot sigma falls linearly to 0 at t = 0.

    Args:
        num_steps: T, the number of levels, at least 2.
        sigma_min, sigma_max: smallest and largest level.
    Source: Song & Ermon 2019, arXiv:1907.05600, sec. 4; 2020, arXiv:2006.09011, secs. 3.1 and 3.2 (number of levels).
    """

    def __init__(self, num_steps: int = 232, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        check_levels("ncsn", sigma_min, sigma_max)
        check_steps(num_steps, least=2)
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self._num_steps = int(num_steps)
        self._log_step = math.log(self.sigma_max / self.sigma_min) / (self._num_steps - 1)

    @property
    def num_steps(self) -> int:
        """T, the number of noise levels."""
        return self._num_steps

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        position = t.double() * self._num_steps
        geometric = torch.exp((position - 1).clamp(min=0) * self._log_step)
        return self.sigma_min * torch.where(position < 1, position, geometric)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        level = -log_snr.double() / 2 - math.log(self.sigma_min)  # log (sigma / sigma_min)
        position = torch.where(level < 0, torch.exp(level), 1 + level / self._log_step)
        return (position / self._num_steps).clamp(0, 1)


class EDMProcess(Process):
    """alpha = 1, sigma = sigma_max t: noise is added without scaling the data.

    Args:
        sigma_max: noise level at t = 1, above 0.
    Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", arXiv:2206.00364.
    """

    def __init__(self, sigma_max: float = 80.0) -> None:
        check_positive("sigma_max", sigma_max)
        self.sigma_max = float(sigma_max)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t.double()

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return (torch.exp(-log_snr.double() / 2) / self.sigma_max).clamp(0, 1)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t, dtype=torch.float64)
        return 0 * one, self.sigma_max * one


class FlowProcess(Process):
    """alpha = 1 - t, sigma = t: the straight path of flow matching and rectified flow.

    Source: Lipman et al. 2022, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t.double()

    def sigma(self, t: Tensor) -> Tensor:
        return t.double() * 1

    def log_snr(self, t: Tensor) -> Tensor:
        t = t.double()
        return 2 * (torch.log1p(-t) - torch.log(t))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # torch.sigmoid is not bitwise identical for a single element and in a batch
        return 1 / (1 + torch.exp(log_snr.double() / 2))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t, dtype=torch.float64)
        return -one, one


class RescaledProcess(Process):
    """``base`` for data multiplied by ``scale``: the same alpha, sigma times ``scale``.

    A network trained on pixels in [0, 1] works on [-1, 1] under this process with scale 2.

    Args:
        base: the process of the data before scaling.
        scale: factor of the data, above 0.
    """

    def __init__(self, base: Process, scale: float) -> None:
        check_positive("scale", scale)
        self.base, self.scale = base, float(scale)

    @property
    def num_steps(self) -> int | None:
        return self.base.num_steps

    @property
    def prior_std(self) -> float:
        return self.scale * self.base.prior_std

    def alpha(self, t: Tensor) -> Tensor:
        return self.base.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.scale * self.base.sigma(t)

    def log_snr(self, t: Tensor) -> Tensor:
        return self.base.log_snr(t) - 2 * math.log(self.scale)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return self.base.time_of_log_snr(log_snr + 2 * math.log(self.scale))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        d_alpha, d_sigma = self.base.rates(t)
        return d_alpha, self.scale * d_sigma


PROCESSES = {
    "ddpm_linear": DiscreteVP.linear,
    "ddpm_cosine": DiscreteVP.cosine,
    "cosine": CosineProcess,
    "vp": VPSDE,
    "sub_vp": SubVPSDE,
    "ve": VESDE,
    "ncsn": GeometricVE,
    "edm": EDMProcess,
    "flow": FlowProcess,
}


def make_process(spec: str) -> Process:
    """A process from ``name`` or ``name:option=value,option=value``, such as ``ve:sigma_max=80``.

    Raises:
        UsageError: an unknown process or option (the message suggests the nearest name), or an invalid value.
    """
    process: Process = make(PROCESSES, spec, "process")
    return process
