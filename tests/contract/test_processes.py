"""What every row of ``PROCESSES`` keeps to: shapes, types, options as a configuration, graph-free contexts."""

from __future__ import annotations

import pytest
import torch

from undiffuse.config import build, model_of, validate
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES
from undiffuse.errors import UsageError

every_process = pytest.mark.parametrize("name", PROCESSES)
FUNCTIONS = ["alpha", "sigma", "log_snr", "d_log_alpha", "diffusion2"]


@every_process
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_time_a_row_in_one_float64_a_row_out(name: str, function: str, dtype: torch.dtype) -> None:
    process = PROCESSES[name]()
    for t in (torch.empty(0, dtype=dtype), torch.tensor([0.5], dtype=dtype), torch.linspace(0.1, 0.9, 4, dtype=dtype)):
        value = getattr(process, function)(t)
        assert value.shape == t.shape
        assert value.dtype == torch.float64
        assert not value.requires_grad
        assert bool(value.isfinite().all())


@every_process
@pytest.mark.parametrize("function", FUNCTIONS)
def test_rows_do_not_see_each_other(name: str, function: str) -> None:
    process, t = PROCESSES[name](), torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    together = getattr(process, function)(t)
    for row in range(len(t)):
        assert torch.equal(getattr(process, function)(t[row : row + 1]), together[row : row + 1])


@every_process
def test_bridge_and_inverse_keep_the_rows(name: str) -> None:
    process: Process = PROCESSES[name]()
    for t in (torch.empty(0), torch.linspace(0, 1, 5)):
        assert all(entry.shape == t.shape and entry.dtype == torch.float64 for entry in process.bridge(t / 2, t))
        assert process.time_of_log_snr(process.log_snr(t)).shape == t.shape
        assert process.drift(torch.zeros(len(t), 2, 2), t * 0.5).shape == (len(t), 2, 2)


@every_process
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_rates_come_out_without_a_graph(name: str, context) -> None:  # type: ignore[no-untyped-def]
    process = PROCESSES[name]()
    with context():
        inside = process.rates(torch.tensor([0.3, 0.7], dtype=torch.float64))
    outside = process.rates(torch.tensor([0.3, 0.7], dtype=torch.float64))
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


@every_process
def test_it_is_built_from_a_configuration(name: str) -> None:
    model = model_of(name, PROCESSES[name])
    process = build(PROCESSES, validate(model, {"name": name}))
    assert float(process.alpha(torch.zeros(1))) == 1
    with pytest.raises(UsageError, match="no key 'beta_mini'"):
        validate(model, {"name": name, "beta_mini": 1})
