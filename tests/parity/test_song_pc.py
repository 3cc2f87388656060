"""Song's corrector, whose step takes norms averaged over the batch, as a reference for ours, whose step is sigma's.

The reference is Song et al. 2021, arXiv:2011.13456, algorithms 4 and 5 without their factor alpha_i (1 for VE):

    eps = 2 (r |z| / |score|)^2,   x <- x + eps score + sqrt(2 eps) z,   |.| averaged over the batch.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.processes import PROCESSES, EDMProcess
from undiffuse.samplers.langevin import langevin

R = 0.16
#: As many dimensions as a CIFAR-10 image has, with data that fill 60 of them.
DIMENSIONS, FILLED = 3072, 60


def song_corrector(score: Tensor, x: Tensor, z: Tensor, r: float) -> Tensor:
    step = 2 * (r * z.norm(dim=1).mean() / score.norm(dim=1).mean()) ** 2
    return x + step * score + torch.sqrt(2 * step) * z


def per_row_corrector(score: Tensor, x: Tensor, z: Tensor, r: float) -> Tensor:
    step = 2 * (r * z.norm(dim=1) / score.norm(dim=1))[:, None] ** 2
    return x + step * score + torch.sqrt(2 * step) * z


@pytest.mark.parametrize("log_snr", [-4.0, 0.0, 4.0])
@pytest.mark.parametrize("process_name", ["vp", "ve", "ncsn", "sub_vp", "flow"])
def test_on_a_large_batch_of_images_the_two_agree_to_a_few_percent(process_name: str, log_snr: float) -> None:
    process, generator = PROCESSES[process_name](), torch.Generator().manual_seed(0)
    variance = torch.zeros(DIMENSIONS, dtype=torch.float64)
    variance[:FILLED] = 1
    data = GaussianMixture.gaussian(torch.zeros(DIMENSIONS).double(), variance)
    t = process.time_of_log_snr(torch.full((64,), log_snr, dtype=torch.float64))
    eps, z = torch.randn(2, 64, DIMENSIONS, dtype=torch.float64, generator=generator)
    x = process.diffuse(data.sample(64, generator), eps, t)
    theirs = song_corrector(data.score(x, process, t), x, z, R) - x
    ours = langevin(process, x, data.denoiser(process)(x, t).x_0, t, R, z) - x
    # |score| sigma is sqrt(DIMENSIONS) less at most the share of the data's own dimensions: 1 percent of the step
    assert float((theirs - ours).norm() / ours.norm()) < 0.02
    ratio = float((theirs * ours).sum() / (ours * ours).sum())
    assert 0.99 < ratio < 1.02


def settled_second_moment(corrector: str, dimensions: int, rows: int, r: float = 0.3) -> float:
    """E x^2 after 200 corrections on data at 0 with sigma = 1, whose score is -x; it should be 1 / (1 - r^2)."""
    process, generator = EDMProcess(), torch.Generator().manual_seed(1)
    t = torch.full((rows,), 1 / 80, dtype=torch.float64)
    x = torch.randn(rows, dimensions, dtype=torch.float64, generator=generator)
    for _ in range(200):
        z = torch.randn(rows, dimensions, dtype=torch.float64, generator=generator)
        ours = corrector == "ours"
        x = langevin(process, x, torch.zeros_like(x), t, r, z) if ours else per_row_corrector(-x, x, z, r)
    return float(x.square().mean())


@pytest.mark.parametrize("dimensions", [1, 2, 8])
def test_norms_of_single_rows_bias_small_dimensions_and_ours_do_not(dimensions: int) -> None:
    # a row near its mode has a small score, takes a huge step, and is thrown far out: the ratio's mean is infinite
    expected = 1 / (1 - 0.3**2)
    assert settled_second_moment("per row", dimensions, 2000) > 1.3 * expected
    standard_error = expected * (2 / (2000 * dimensions)) ** 0.5
    assert abs(settled_second_moment("ours", dimensions, 2000) - expected) < 4 * standard_error


def test_with_one_sample_of_an_image_the_norms_do_no_harm() -> None:
    expected = 1 / (1 - 0.3**2)
    standard_error = expected * (2 / DIMENSIONS) ** 0.5
    for corrector in ("per row", "ours"):
        assert abs(settled_second_moment(corrector, DIMENSIONS, 1) - expected) < 5 * standard_error
