"""Time grids descend to the data within the trained range; densities stay in (0, 1] and are what they are called."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes_to_try import PROCESSES_TO_TRY, processes

from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, DiscreteVP, EDMProcess, FlowProcess
from undiffuse.errors import UsageError
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.samplers.grids import GRIDS, WIDEST_LOG_SNR, time_grid

quick = settings(max_examples=60, deadline=None)
INNER = [name for name in GRIDS if name not in ("uniform", "quadratic", "angle")]
ranges = st.one_of(
    st.just((-math.inf, math.inf)), st.tuples(st.floats(-9, -3), st.floats(3, 14)), st.just((-math.inf, 5.0))
)


@quick
@given(st.sampled_from(sorted(GRIDS)), processes, st.integers(1, 40), ranges)
def test_grids_descend_to_zero_within_the_trained_range(
    name: str, process: Process, num_steps: int, log_snr_range: tuple[float, float]
) -> None:
    times = time_grid(name, process, num_steps, log_snr_range)
    assert times.shape == (num_steps + 1,)
    assert times.dtype == torch.float64
    assert bool((times.diff() < 0).all())
    assert float(times[0]) <= 1
    assert float(times[-1]) == 0
    log_snr = process.log_snr(times)
    assert float(log_snr[0]) >= log_snr_range[0] - 1e-6
    first = process.time_of_log_snr(torch.tensor([log_snr_range[0]]))
    if name in ("uniform", "quadratic"):
        assert float(times[0]) == pytest.approx(float(first))
    else:
        assert bool((log_snr[1:-1] <= min(log_snr_range[1], WIDEST_LOG_SNR[1]) + 1e-6).all())


@pytest.mark.parametrize("name", PROCESSES)
def test_spacing_is_what_the_name_reports(name: str) -> None:
    process = PROCESSES[name]()
    uniform, quadratic = time_grid("uniform", process, 12), time_grid("quadratic", process, 12)
    assert torch.allclose(uniform, torch.linspace(1, 0, 13, dtype=torch.float64))
    assert torch.allclose(quadratic.sqrt(), torch.linspace(1, 0, 13, dtype=torch.float64))
    whole = (-6.0, 6.0)
    steps = process.log_snr(time_grid("log_snr", process, 9, whole)[:-1]).diff()
    assert torch.allclose(steps, torch.full_like(steps, 12 / 8), atol=1e-7)
    sigma = torch.exp(-process.log_snr(time_grid("karras", process, 9, whole)[:-1]) / 2)
    root = sigma ** (1 / 7)
    assert torch.allclose(root.diff(), (root[-1] - root[0]).expand(8) / 8, atol=1e-7)
    other = torch.exp(-process.log_snr(time_grid("karras", process, 9, whole, rho=3.0)[:-1]) / 2) ** (1 / 3)
    assert torch.allclose(other.diff(), (other[-1] - other[0]).expand(8) / 8, atol=1e-7)


def test_the_karras_grid_of_edm_is_karrass() -> None:
    n = 18
    i = torch.arange(n, dtype=torch.float64)
    sigma = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times = time_grid("karras", EDMProcess(80.0), n)
    assert torch.allclose(80 * times, torch.cat([sigma, torch.zeros(1, dtype=torch.float64)]), rtol=1e-9, atol=1e-12)


def test_a_chain_walked_in_full_meets_its_knots() -> None:
    process = DiscreteVP.linear(50)
    assert torch.allclose(time_grid("uniform", process, 50).flip(0), process.knots, atol=1e-15)


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 10])
def test_without_signal_at_the_end_the_first_step_leaves_from_one(name: str, num_steps: int) -> None:
    times = time_grid(name, FlowProcess(), num_steps)
    assert float(times[0]) == 1
    if num_steps > 1:
        assert float(FlowProcess().log_snr(times[1:2])) == pytest.approx(WIDEST_LOG_SNR[0])


@pytest.mark.parametrize(("name", "num_steps", "message"), [("uniform", 0, "at least 1"), ("unifrom", 3, "'uniform'")])
def test_senseless_grids_are_rejected(name: str, num_steps: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        time_grid(name, FlowProcess(), num_steps)


# --- densities ------------------------------------------------------------------------------------------------------

U = torch.tensor([2.0**-54, 1e-9, 0.01, 0.3, 0.5, 0.77, 0.999, 1 - 2.0**-53], dtype=torch.float64)


@pytest.mark.parametrize("process_name", PROCESSES_TO_TRY)
@pytest.mark.parametrize("name", TIME_DENSITIES)
def test_densities_map_u_into_the_half_open_interval_and_ascend(name: str, process_name: str) -> None:
    process, density = PROCESSES_TO_TRY[process_name], TIME_DENSITIES[name]()
    if name == "knots" and process.num_steps is None:
        with pytest.raises(UsageError, match="num_steps"):
            density(process, U)
        return
    t = density(process, U)
    assert t.shape == U.shape
    assert t.dtype == torch.float64
    assert bool(((process.sigma(t) > 0) & (t <= 1)).all())
    assert bool((t.diff() >= 0).all())


def test_knots_are_drawn_equally_often() -> None:
    process = DiscreteVP.linear(40)
    t = TIME_DENSITIES["knots"]()(process, (torch.arange(80, dtype=torch.float64) + 0.5) / 80)
    assert torch.equal(t.reshape(40, 2), process.knots[1:, None].expand(40, 2))


def test_normal_densities_have_their_mean_and_deviation() -> None:
    u = torch.special.ndtr(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
    process = PROCESSES["vp"]()
    log_sigma = -process.log_snr(TIME_DENSITIES["log_normal"](-1.0, 0.7)(process, u)) / 2
    assert log_sigma.tolist() == pytest.approx([-1.7, -1.0, -0.3])
    default = -process.log_snr(TIME_DENSITIES["log_normal"]()(process, u)) / 2
    assert default.tolist() == pytest.approx([-2.4, -1.2, 0.0])
    t = TIME_DENSITIES["logit_normal"](0.5, 2.0)(process, u)
    assert torch.logit(t).tolist() == pytest.approx([-1.5, 0.5, 2.5])


def test_the_uniform_density_is_the_identity() -> None:
    assert torch.equal(TIME_DENSITIES["uniform"]()(FlowProcess(), U), U)


@pytest.mark.parametrize("name", ["log_normal", "logit_normal"])
def test_a_density_without_width_is_rejected(name: str) -> None:
    with pytest.raises(UsageError, match="std > 0"):
        TIME_DENSITIES[name](std=0.0)


def test_the_options_of_a_grid_are_written_behind_its_name() -> None:
    process = FlowProcess()
    assert torch.equal(time_grid("karras:rho=5", process, 9), time_grid("karras", process, 9, rho=5.0))
    assert torch.equal(time_grid("karras:", process, 9), time_grid("karras", process, 9))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("karras:roh=5", "did you mean 'rho'"),
        ("log_snr:rho=5", "it has none"),
        ("karas:rho=5", "did you mean 'karras'"),
        ("karras:rho=x", "number above 0"),
        ("karras:rho=0", "number above 0"),
        ("karras:rho=nan", "number above 0"),
        ("karras:rho", "number above 0"),
    ],
)
def test_bad_options_of_a_grid(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        time_grid(name, FlowProcess(), 9)
