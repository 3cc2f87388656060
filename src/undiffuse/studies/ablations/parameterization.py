"""``undiffuse study parameterization``: prediction target, loss weighting and sampling variance.

The experiment of Ho et al. 2020, table 2, for {posterior mean, x0, eps} x {variational, simple} x {beta, beta-tilde}:
all cells use the same network, images and noise. The simple loss is the plain squared error of the prediction target
and does not depend on the variance, so its two cells share one training; the variational weight c_0^2 / (2 variance)
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.errors import UsageError
from undiffuse.losses.variational import Normal, variational_bound

PREDICTIONS = ("posterior_mean", "x0", "eps")
LOSSES = ("variational", "simple")
VARIANCES = ("beta", "beta_tilde")
#: The weighting that gives the plain error of each prediction target.
SIMPLE = {"posterior_mean": "posterior_mean", "x0": "uniform", "eps": "simple"}
#: T, and a linear schedule with the end points of DDPM's 1000 steps, with each beta 1000 / T times as large.
NUM_STEPS = 200
SCHEDULE = {"beta_start": 1e-4 * 1000 / NUM_STEPS, "beta_end": 0.02 * 1000 / NUM_STEPS}
_SHOWN = {"posterior_mean": "posterior mean", "beta_tilde": "beta-tilde"}


@dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Attributes:
        prediction: an element of ``PREDICTIONS``.
        loss: an element of ``LOSSES``.
        variance: of the reverse step, in sampling and in the bound; an element of ``VARIANCES``.
    """

    prediction: str
    loss: str
    variance: str

    @property
    def name(self) -> str:
        """A name such as ``eps-simple-beta``."""
        return f"{self.prediction}-{self.loss}-{self.variance}"

    @property
    def training(self) -> str:
        """Name of the training that the cell samples from."""
        return self.name if self.loss == "variational" else f"{self.prediction}-{self.loss}"

    def overrides(self) -> list[str]:
        """The settings of its training, as ``key=value``."""
        weighting = ["system.weighting=variational", f"system.weighting.variance={self.variance}"]
        simple = [f"system.weighting={SIMPLE[self.prediction]}"]
        return [f"system.parameterization={self.prediction}", *(weighting if self.loss == "variational" else simple)]

    @property
    def sampler(self) -> str:
        """Its sampler, over all steps of the chain."""
        return f"ancestral:variance={self.variance}"


def cells() -> list[Cell]:
    """All twelve cells of the table."""
    return [Cell(prediction, loss, var) for prediction in PREDICTIONS for loss in LOSSES for var in VARIANCES]


def density_bound(denoiser: Denoiser, x_0: Tensor, normal: Normal, variance: str) -> Tensor:
    """The bound on -log p(x_0) of continuous data over the knots of a chain, ``(B,)`` nats.

    Args:
        denoiser: of a discrete chain.
        x_0: (B, ...).
        normal: draws the noise of the terms, see ``losses.variational``.
        variance: ``beta`` or ``beta_tilde``.
    Raises:
        UsageError: if the process is continuous.
    """
    knots = denoiser.process.knots
    if knots is None:
        raise UsageError("the bound over a chain's knots needs a process with num_steps, such as 'ddpm_linear'")
    return variational_bound(denoiser, x_0, knots[1:], normal, variance=variance, num_levels=None).total


def markdown(rows: Sequence[dict[str, Any]], record: dict[str, Any]) -> str:
    """The table and its settings, as Markdown."""
    lines = [
        "# Prediction target, loss weighting and sampling variance",
        "",
        f"Data: {record['data']}. {record['images']:,} images for each training, T = {NUM_STEPS}, "
        f"seed {record['seed']}; {record['samples']} samples, all {NUM_STEPS} ancestral steps. The experiment "
        "of Ho et al. 2020, arXiv:2006.11239, table 2.",
        "",
        f"| predicts | loss | variance | {record['quality']} (lower is better) | {record['bound']} (lower is better) |",
        "|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(row_texts(row)) + " |" for row in rows]
    lines += [
        "",
        "The variational loss weights each step as in the bound, c_0² / (2 variance); the simple loss is the plain "
        "squared error of the prediction target. The two cells of a simple loss share their weights. A failed cell "
        "gives the reason. Numbers after ± are standard errors over sampling and evaluation, not over training runs.",
        "",
    ]
    return "\n".join(lines)


def row_texts(row: dict[str, Any]) -> list[str]:
    """The five columns of one cell as text, with the reason in place of a missing number."""
    names = [_SHOWN.get(row[key], row[key]) for key in ("prediction", "loss", "variance")]
    return [*names, *(_value(row[key], row.get("failed")) for key in ("quality", "bound"))]


def _value(pair: dict[str, float | None] | None, failed: str | None) -> str:
    if pair is None or pair["value"] is None:
        return failed or "not computed"
    error = "" if pair["error"] is None else f" ± {pair['error']:.2g}"
    return f"{pair['value']:.4g}{error}"
