"""Every process and parameterization that a configuration accepts gives finite samples on every grid."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from undiffuse.config import validate
from undiffuse.core.parameterization import PARAMETERIZATIONS
from undiffuse.core.processes import PROCESSES
from undiffuse.errors import RunError, UsageError
from undiffuse.models.base import GenerativeModel
from undiffuse.models.request import SampleRequest
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.samplers import SAMPLERS, make_sampler
from undiffuse.samplers.grids import GRIDS

#: Every sampler; the adaptive one with a tolerance that a random network does not make endless.
SPECS = ["rk45:rtol=0.1" if name == "rk45" else name for name in SAMPLERS]
NETWORK = {"name": "mlp", "width": 8, "num_blocks": 1}


def random_system(shape: tuple[int, ...] = (2,), **options: Any) -> GenerativeModel:
    """A model whose network answers at random, and not with the zeros of a fresh one."""
    system = validate(DiffusionConfig, {"network": NETWORK, **options}).build(shape, ()).model
    generator = torch.Generator().manual_seed(0)
    for parameter in system.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return system


def cells(process: str, parameterization: str, whole: bool) -> list[tuple[str, str, int]]:
    """Grids, samplers and numbers of steps: all of them, or every fourteenth, others for each process and target.

    There are as many processes and targets as it takes for each of the cells to come up, and each pair of a process or
    a target with a sampler.
    """
    every = list(product(GRIDS, SPECS, (1, 4)))
    first = 3 * list(PROCESSES).index(process) + list(PARAMETERIZATIONS).index(parameterization)
    return every if whole else every[first % 14 :: 14]


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["a few", "all"])
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("process", PROCESSES)
def test_samples_are_finite(process: str, parameterization: str, whole: bool) -> None:
    try:
        system = random_system(process={"name": process}, parameterization=parameterization)
    except UsageError:
        assert parameterization in ("flow", "posterior_mean")
        return
    for grid, sampler, num_steps in cells(process, parameterization, whole):
        request = SampleRequest.of(range(3), sampler=sampler, grid=grid, steps=num_steps)
        try:
            x = system.sample(request).x
        except RunError as error:
            # A random network need not be smooth enough for an adaptive solver; as the mean of the posterior it is
            # multiplied by 1 / c_0, and a Langevin chain then moves away from it further and further.
            stuck = sampler == "rk45:rtol=0.1" and "got stuck" in str(error)
            flees = make_sampler(sampler).order == 0 and parameterization == "posterior_mean"
            assert stuck or flees, error
            continue
        assert bool(x.isfinite().all()), (grid, sampler, num_steps)


def test_the_few_of_each_try_every_cell() -> None:
    pairs = list(product(PROCESSES, PARAMETERIZATIONS))
    tried = {cell for pair in pairs for cell in cells(*pair, whole=False)}
    assert tried == set(cells(*pairs[0], whole=True))
    for by in (0, 1):
        samplers = {(pair[by], cell[1]) for pair in pairs for cell in cells(*pair, whole=False)}
        assert samplers == set(product((PROCESSES, PARAMETERIZATIONS)[by], SPECS))


@pytest.mark.parametrize(
    ("process", "parameterization"),
    [("flow", "eps"), ("flow", "score"), ("flow", "edm"), ("vp", "eps"), ("vp", "score")],
)
def test_grids_begin_where_the_row_reports_something(process: str, parameterization: str) -> None:
    options = {"beta_max": 400.0} if process == "vp" else {}
    system = random_system(process={"name": process, **options}, parameterization=parameterization)
    assert system.log_snr_range[0] > -9
    assert bool(system.sample(SampleRequest.of(range(3), grid="uniform")).x.isfinite().all())
    assert random_system(parameterization="v").log_snr_range[0] == -torch.inf


def test_samples_that_are_not_finite_are_rejected_and_the_mode_is_kept() -> None:
    system = random_system().train()
    next(iter(system.parameters())).data.fill_(torch.nan)
    with pytest.raises(RunError, match="3 of 3 samples are not finite with sampler heun, 10 steps on the grid"):
        system.sample(SampleRequest.of(range(3)))
    assert system.training

    def stop(start: int, progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        random_system().train().sample(SampleRequest.of(range(3), callback=stop))


def test_classes_that_the_data_does_not_have_are_rejected() -> None:
    with pytest.raises(UsageError, match=r"system\.class_conditional=true, but the data has no classes"):
        random_system(class_conditional=True)
