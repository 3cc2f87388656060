"""Adversarial objectives: rows of one registry, each with the losses of generator and discriminator, to be minimised.

With r = D(x) the discriminator's logit on data, f = D(G(z)) that on samples, and S(y) = log(1 + e^y), so that
-log sigmoid(y) = S(-y) and -log(1 - sigmoid(y)) = S(y):

==================  =============================  ========================  ==========================================
row                 discriminator                  generator                 source
==================  =============================  ========================  ==========================================
``minmax``          S(-r) + S(f)                   -S(f)                     Goodfellow et al. 2014, eq. 1
``non_saturating``  S(-r) + S(f)                   S(-f)                     the same, sec. 3
``wgan``            f - r, weights clipped         -f                        Arjovsky et al. 2017, arXiv:1701.07875
``wgan_gp``         f - r + gradient penalty       -f                        Gulrajani et al. 2017, arXiv:1704.00028
``hinge``           (1 - r)_+ + (1 + f)_+          -f                        Lim & Ye 2017, arXiv:1705.02894
``relativistic``    S(f - r)                       S(r - f)                  Jolicoeur-Martineau 2019, arXiv:1807.00734;
                                                                             with R1 and R2: Huang et al. 2024,
                                                                             arXiv:2501.05441
==================  =============================  ========================  ==========================================

R1 and R2 (``losses.penalties``) can be added to each. Goodfellow et al. give the two stochastic gradients of a step as
those of (1/m) sum_i [log D(x_i) + log(1 - D(G(z_i)))], ascended by the discriminator, and of
(1/m) sum_i log(1 - D(G(z_i))), descended by the generator: the means of ``minmax``, the first one negated.

Source: Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from undiffuse.losses.limits import check_clip, check_penalties

#: Losses (B,) of the discriminator's logits on data and on samples, (B,) each.
LogitLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Penalties:
    """Gradient penalties of the discriminator.

    Args:
        r1, r2: gamma of gamma/2 |grad D|^2 at data and at samples.
        lipschitz: lambda of WGAN-GP's penalty between data and samples.
        sided: ``two`` penalises gradient norms above and below 1, ``one`` only those above 1.
        every: penalise every so many optimizer steps, with the penalties multiplied by this number (lazy
            regularisation, Karras et al. 2020, arXiv:1912.04958, appendix B).
    """

    r1: float = 0.0
    r2: float = 0.0
    lipschitz: float = 0.0
    sided: Literal["one", "two"] = "two"
    every: int = 1

    def __post_init__(self) -> None:
        check_penalties(self.every, r1=self.r1, r2=self.r2, lipschitz=self.lipschitz)

    @property
    def any(self) -> bool:
        """Whether any penalty has a weight above 0."""
        return self.r1 > 0 or self.r2 > 0 or self.lipschitz > 0

    def due(self, step: int) -> bool:
        """Whether the penalties are part of the loss in this optimizer step."""
        return self.any and step % self.every == 0


@dataclass(frozen=True)
class AdversarialObjective:
    """The losses of discriminator and generator, one row of ``OBJECTIVES``.

    Args:
        discriminator, generator: their losses of (r, f), (B,) each.
        paired: the generator's loss depends on the logits of data as well.
        signed: whether an output above 0 means "real"; otherwise adding a constant to all outputs changes no loss.
        penalties: of the discriminator.
        clip: the discriminator's weights are clipped to [-clip, clip] after each of its steps.
    """

    discriminator: LogitLoss
    generator: LogitLoss
    paired: bool = False
    signed: bool = True
    penalties: Penalties = Penalties()
    clip: float | None = None


def _divergence(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real) + F.softplus(fake)


def _difference(real: Tensor, fake: Tensor) -> Tensor:
    return fake - real


def _down(real: Tensor, fake: Tensor) -> Tensor:
    return -fake


def minmax(r1: float = 0.0, r2: float = 0.0, every: int = 1) -> AdversarialObjective:
    """The minimax loss of Goodfellow et al.; the generator's gradient vanishes against a good discriminator.

    Args:
        r1, r2: gamma of the gradient penalties at data and at samples, at least 0.
        every: interval between penalised steps, in optimizer steps.
    """
    check_penalties(every, r1=r1, r2=r2)
    return AdversarialObjective(
        _divergence, lambda real, fake: -F.softplus(fake), penalties=Penalties(r1, r2, every=every)
    )


def non_saturating(r1: float = 0.0, r2: float = 0.0, every: int = 1) -> AdversarialObjective:
    """The generator maximises log D(G(z)), which has the same fixed point and stronger gradients early in training.

    Args:
        r1, r2: gamma of the gradient penalties at data and at samples, at least 0.
        every: interval between penalised steps, in optimizer steps.
    """
    check_penalties(every, r1=r1, r2=r2)
    return AdversarialObjective(
        _divergence, lambda real, fake: F.softplus(-fake), penalties=Penalties(r1, r2, every=every)
    )


def wgan(clip: float = 0.01, r1: float = 0.0, r2: float = 0.0, every: int = 1) -> AdversarialObjective:
    """The Wasserstein loss, with the discriminator kept Lipschitz by clipping its weights.

    Args:
        clip: weights are clipped to [-clip, clip], above 0.
        r1, r2: gamma of the gradient penalties at data and at samples, at least 0.
        every: interval between penalised steps, in optimizer steps.
    Raises:
        UsageError: ``clip`` is not positive.
    """
    check_clip(clip)
    check_penalties(every, r1=r1, r2=r2)
    return AdversarialObjective(_difference, _down, signed=False, penalties=Penalties(r1, r2, every=every), clip=clip)


def wgan_gp(
    penalty: float = 10.0,
    sided: Literal["one", "two"] = "two",
    r1: float = 0.0,
    r2: float = 0.0,
    every: int = 1,
) -> AdversarialObjective:
    """The Wasserstein loss with the penalty lambda (|grad D| - 1)^2 between data and samples (``losses.penalties``).

    Args:
        penalty: lambda, at least 0.
        sided: ``two`` penalises gradient norms above and below 1, ``one`` only those above 1.
        r1, r2: gamma of the gradient penalties at data and at samples, at least 0.
        every: interval between penalised steps, in optimizer steps.
    """
    check_penalties(every, r1=r1, r2=r2, lipschitz=penalty)
    return AdversarialObjective(_difference, _down, signed=False, penalties=Penalties(r1, r2, penalty, sided, every))


def hinge(r1: float = 0.0, r2: float = 0.0, every: int = 1) -> AdversarialObjective:
    """Hinge loss: logits beyond a margin of 1 add nothing to the discriminator's loss; common with spectral norm.

    Args:
        r1, r2: gamma of the gradient penalties at data and at samples, at least 0.
        every: interval between penalised steps, in optimizer steps.
    """
    check_penalties(every, r1=r1, r2=r2)
    return AdversarialObjective(
        lambda real, fake: F.relu(1 - real) + F.relu(1 + fake), _down, penalties=Penalties(r1, r2, every=every)
    )


def relativistic(r1: float = 1.0, r2: float = 1.0, every: int = 1) -> AdversarialObjective:
    """The loss of the difference between the logits of data and samples; R1 and R2 make it converge (R3GAN).

    Args:
        r1, r2: gamma of the gradient penalties at data and at samples, at least 0.
        every: interval between penalised steps, in optimizer steps.
    """
    check_penalties(every, r1=r1, r2=r2)
    return AdversarialObjective(
        lambda real, fake: F.softplus(fake - real),
        lambda real, fake: F.softplus(real - fake),
        paired=True,
        signed=False,
        penalties=Penalties(r1, r2, every=every),
    )


OBJECTIVES: dict[str, Callable[..., AdversarialObjective]] = {
    "minmax": minmax,
    "non_saturating": non_saturating,
    "wgan": wgan,
    "wgan_gp": wgan_gp,
    "hinge": hinge,
    "relativistic": relativistic,
}
