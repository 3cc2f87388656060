"""The density of training's noise levels and the loss's weights over the log-SNR, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from undiffuse.core.processes import EDMProcess, FlowProcess, make_process
from undiffuse.evaluation.schedule import level_density, schedule_of, weight_on_noise
from undiffuse.losses.density import knots, log_normal, uniform
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.models.saved import build_untrained
from undiffuse.recipes import get_recipe


def record_of(recipe: str, shape: tuple[int, ...] = (2,)) -> dict[str, Any]:
    config = get_recipe(recipe).model_dump(mode="json")
    return {
        "format_version": 1,
        "config": config,
        "model": {"shape": list(shape), "class_names": [str(k) for k in range(10)]},
    }


def test_flow_with_even_times_has_a_logistic_density() -> None:
    """lambda = 2 log((1 - t) / t), so p(lambda) = s (1 - s) / 2 with s = sigmoid(lambda / 2)."""
    level, density = level_density(FlowProcess(), uniform())
    s = 1 / (1 + np.exp(-level / 2))
    assert np.allclose(density, s * (1 - s) / 2, rtol=2e-3)
    assert np.trapezoid(density, level) == pytest.approx(1, abs=2e-3)


def test_log_normal_levels_are_normal() -> None:
    """log(sigma / alpha) ~ N(m, s^2), so lambda ~ N(-2 m, (2 s)^2)."""
    level, density = level_density(EDMProcess(), log_normal(-1.2, 1.2))
    z = (level - 2.4) / 2.4
    inside = np.abs(z) < 3.5
    assert np.allclose(density[inside], np.exp(-(z[inside] ** 2) / 2) / (2.4 * math.sqrt(2 * math.pi)), rtol=5e-3)


def test_knots_share_their_mass_with_the_log_snr_between_them() -> None:
    """Even times between the knots tend to the same density as the knots themselves."""
    process = make_process("ddpm_linear:num_steps=1000")
    level, density = level_density(process, knots())
    grid, even = level_density(process, uniform())
    assert density.min() > 0 and np.trapezoid(density, level) == pytest.approx(1, abs=0.01)
    middle = np.abs(level - (level[0] + level[-1]) / 2) < 0.35 * (level[-1] - level[0])
    assert np.allclose(density[middle], np.interp(level[middle], grid, even), rtol=0.05)


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("simple", lambda level: np.ones_like(level)),
        ("uniform", lambda level: np.exp(-level)),
        ("velocity", lambda level: 1 + np.exp(-level)),
        ("flow", lambda level: (1 + np.exp(level / 2)) ** 2 * np.exp(-level)),
        ("min_snr", lambda level: np.minimum(1, 5 * np.exp(-level))),
    ],
)
def test_weights_are_those_on_the_noise(weighting: str, expected: Any) -> None:
    """Each row of the table of weightings, divided by the SNR and scaled to a largest value of 1."""
    level = np.linspace(-6, 6, 41)
    found = weight_on_noise(FlowProcess(), WEIGHTINGS[weighting](), level)
    assert np.allclose(found, expected(level) / expected(level).max(), rtol=1e-9)


def test_the_share_of_the_loss_is_the_product_with_integral_one() -> None:
    record = record_of("edm-swissroll")
    schedule = schedule_of(build_untrained(record), record)
    assert schedule is not None and np.trapezoid(schedule.share, schedule.level) == pytest.approx(1)
    product = schedule.density * schedule.weight
    assert np.allclose(schedule.share / schedule.share.max(), product / product.max())


@pytest.mark.parametrize("recipe", ["ddpm", "iddpm", "ncsn", "vesde", "vpsde", "subvpsde", "edm", "flow"])
def test_every_family_has_its_curves(recipe: str) -> None:
    record = record_of(f"{recipe}-swissroll")
    schedule = schedule_of(build_untrained(record), record)
    assert schedule is not None and len(schedule.level) > 100 and (schedule.density >= 0).all()
    fine = np.isfinite(schedule.log_snr)
    ratio = 2 * np.log(schedule.alpha[fine] / schedule.sigma[fine])
    assert np.allclose(ratio, schedule.log_snr[fine], atol=1e-6)
    whole = 1 - 0.5 / 18  # a chain's outer knots keep half of their mass
    assert whole - 0.01 < np.trapezoid(schedule.density, schedule.level) < 1.001
    assert bool(schedule.note) == (recipe == "iddpm")


def test_what_the_configuration_does_not_report_is_left_out() -> None:
    record = record_of("flow-swissroll")
    system = build_untrained(record)
    del record["config"]["system"]["time_density"]
    schedule = schedule_of(system, record)
    assert schedule is not None and len(schedule.level) == len(schedule.weight) == len(schedule.share) == 0
    variational = record_of("flow-swissroll")
    variational["config"]["system"]["objective"] = "variational"
    schedule = schedule_of(system, variational)
    assert (
        schedule is not None
        and len(schedule.level)
        and not len(schedule.weight)
        and "variational bound" in schedule.note
    )
