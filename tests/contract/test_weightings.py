"""What every row of ``WEIGHTINGS`` keeps to, on every process."""

from __future__ import annotations

import pytest
import torch

from undiffuse.config import build, model_of, validate
from undiffuse.core.processes import PROCESSES
from undiffuse.losses.weighting import WEIGHTINGS

every_weighting = pytest.mark.parametrize("name", WEIGHTINGS)
every_process = pytest.mark.parametrize("process_name", PROCESSES)


@every_process
@every_weighting
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_log_weight_a_row_finite_but_where_nothing_is_left(
    name: str, process_name: str, dtype: torch.dtype
) -> None:
    process, log_weight = PROCESSES[process_name](), WEIGHTINGS[name]()
    t = torch.tensor([1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0], dtype=dtype)
    value = log_weight(process, t)
    assert value.shape == t.shape
    assert value.dtype == torch.float64
    assert bool(value[:-1].isfinite().all())
    assert not bool(value.isnan().any())
    assert float(value[-1]) < float("inf")
    assert log_weight(process, t[:0]).shape == (0,)


@every_process
@every_weighting
def test_rows_do_not_see_each_other(name: str, process_name: str) -> None:
    process, log_weight = PROCESSES[process_name](), WEIGHTINGS[name]()
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    together = log_weight(process, t)
    assert torch.equal(torch.cat([log_weight(process, row[None]) for row in t]), together)


@every_weighting
def test_it_is_built_from_a_configuration(name: str) -> None:
    config = validate(model_of(name, WEIGHTINGS[name]), {"name": name})
    t = torch.tensor([0.4], dtype=torch.float64)
    process = PROCESSES["vp"]()
    assert torch.equal(build(WEIGHTINGS, config)(process, t), WEIGHTINGS[name]()(process, t))
