"""Where sampling begins: a process that keeps its signal is found out, with the deviation that follows from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from undiffuse.api.residual_signal import note_residual_signal
from undiffuse.api.training import split_data
from undiffuse.cli.terminal import Terminal
from undiffuse.config import build
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import (
    PROCESSES,
    VESDE,
    CosineProcess,
    DiscreteVP,
    EDMProcess,
    FlowProcess,
    GeometricVE,
    RescaledProcess,
    SubVPSDE,
    make_process,
)
from undiffuse.core.terminal_noise import NOISE_LOG_SNR, options_ending_in_noise, specs_ending_in_noise, terminal_noise
from undiffuse.data.dataset import ArrayDataset
from undiffuse.diagnostics.noise_levels import assess_prior
from undiffuse.observer import observing
from undiffuse.recipes import RECIPES, get_recipe
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import sample
from undiffuse.samplers.grids import time_grid

SHORT = (DiscreteVP.linear(10), SubVPSDE(0.1, 3.0), VESDE(0.01, 1.0))


def test_ten_steps_of_the_linear_schedule_end_with_more_signal_than_noise() -> None:
    end = terminal_noise(DiscreteVP.linear(10))
    assert end.log_snr == pytest.approx(2.2395, abs=1e-4) and not end.is_noise()
    stochastic, ode = end.deviations(0.25)
    alpha_bar = math.prod(1 - (1e-4 + k * 0.0199 / 9) for k in range(10))
    assert ode == pytest.approx(0.25 / math.sqrt(alpha_bar / 16 + 1 - alpha_bar)) == pytest.approx(0.6397, abs=1e-4)
    assert stochastic == pytest.approx(0.4367, abs=1e-4)
    assert "log-SNR +2.24, where 95% of the amplitude is signal" in end.consequence(0.25)


@pytest.mark.parametrize("process", SHORT, ids=lambda process: type(process).__name__)
def test_samples_of_the_exact_denoiser_have_the_deviation_foretold(process: Process) -> None:
    truth = GaussianMixture.gaussian(torch.zeros(8_000), torch.full((8_000,), 0.25**2))
    expected = terminal_noise(process).deviations(0.25)
    for sampler, steps, deviation in (("euler_maruyama", 80, expected[0]), ("heun", 12, expected[1])):
        times = time_grid("uniform", process, steps)
        x = sample(truth.denoiser(process), make_sampler(sampler), times, shape=(8_000,), seeds=[0]).x
        assert float(x.std()) == pytest.approx(deviation, rel=0.05), sampler


@pytest.mark.parametrize(
    ("process", "log_snr"),
    [
        (VESDE(0.01, 2.0), -2 * math.log(2)),
        (GeometricVE(20, 0.01, 3.0), -2 * math.log(3)),
        (RescaledProcess(EDMProcess(2.0), 2.0), -2 * math.log(4)),
        (FlowProcess(), -math.inf),
        (CosineProcess(), -math.inf),
        (EDMProcess(80.0), -2 * math.log(80)),
    ],
)
def test_the_end_of_every_kind_of_process(process: Process, log_snr: float) -> None:
    end = terminal_noise(process)
    assert end.log_snr == pytest.approx(log_snr) and end.is_noise() == (log_snr <= NOISE_LOG_SNR)
    assert assess_prior(process).severity == ("ok" if end.is_noise() else "problem")


def test_data_of_large_scale_want_more_noise() -> None:
    end = terminal_noise(VESDE(0.01, 10.0))
    assert end.is_noise() and end.is_noise(0.1) and not end.is_noise(5.0)


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        ("ddpm_linear:num_steps=10", ["num_steps", "beta_end"]),
        ("ddpm_linear:beta_end=0.001", ["num_steps", "beta_end"]),
        ("ddpm_cosine:num_steps=10,beta_max=0.05", ["num_steps", "beta_max"]),
        ("vp:beta_max=1", ["beta_max"]),
        ("sub_vp:beta_max=1", ["beta_max"]),
        ("ve:sigma_max=1", ["sigma_max"]),
        ("ncsn:num_steps=5,sigma_max=1", ["sigma_max"]),
        ("edm:sigma_max=1", ["sigma_max"]),
    ],
)
def test_the_values_that_are_named_would_do_and_are_not_far_too_large(spec: str, keys: list[str]) -> None:
    name, _, text = spec.partition(":")
    options = {key: float(value) for key, value in (item.split("=") for item in text.split(","))}
    options |= {key: int(value) for key, value in options.items() if key == "num_steps"}
    assert not terminal_noise(make_process(spec)).is_noise()
    found = options_ending_in_noise(PROCESSES[name], options)
    assert set(found) <= set(keys) and set(found) & set(keys)
    for key, value in found.items():
        assert terminal_noise(PROCESSES[name](**{**options, key: value})).is_noise()
        assert not terminal_noise(
            PROCESSES[name](**{**options, key: int(value * 0.9) if key == "num_steps" else value * 0.9})
        ).is_noise()


def test_recipes_end_in_noise_but_for_the_chain_of_200_steps() -> None:
    systems = {name: get_recipe(name).system for name in RECIPES}
    kept = {
        name
        for name, system in systems.items()
        if hasattr(system, "process") and not terminal_noise(build(PROCESSES, system.process)).is_noise()
    }
    assert kept == {"ddpm-swissroll"}


def test_a_short_chain_is_harmless_where_neither_deviation_nor_mean_would_be_lost() -> None:
    end = terminal_noise(DiscreteVP.linear(200))
    assert end.log_snr == pytest.approx(-1.88, abs=0.01) and not end.is_noise()
    assert not end.biases_samples(0.984) and end.deviations(0.984) == pytest.approx((0.9843, 0.9861), abs=2e-4)
    assert end.biases_samples(0.984, mean=0.2) and end.biases_samples(0.5) and end.biases_samples(2.0)
    assert not terminal_noise(DiscreteVP.linear(1000)).biases_samples(0.01, mean=1.0)
    written = {"name": "ddpm_linear", "num_steps": 200}
    assert assess_prior(DiscreteVP.linear(200), 2, written, 0.984, 0.0).severity == "note"
    assert assess_prior(DiscreteVP.linear(200), 2, written, 0.5, 0.0).severity == "problem"


def test_the_swiss_roll_of_the_recipe_reports_nothing_of_its_short_chain(capsys: pytest.CaptureFixture[str]) -> None:
    config = get_recipe("ddpm-swissroll")
    training, _ = split_data(config)
    note_residual_signal(config.system, training)
    assert capsys.readouterr().err == ""
    shorter = config.system.model_copy(update={"process": config.system.process.model_copy(update={"num_steps": 10})})
    moved = ArrayDataset("moved", training.items(np.arange(200)) + np.float32(2))
    for system, data in ((shorter, moved), (config.system, moved)):
        with observing(Terminal()):
            note_residual_signal(system, data)
        assert "samples of an exact model have" in capsys.readouterr().err


def test_a_process_requested_for_in_sampling_is_answered_with_one_that_would_do() -> None:
    assert specs_ending_in_noise("ve:sigma_max=2,sigma_min=0.02") == ["ve:sigma_max=7.4,sigma_min=0.02"]


def test_the_doctor_names_values_that_leave_nothing() -> None:
    written = {"name": "ddpm_linear", "num_steps": 10, "beta_start": 1e-4, "beta_end": 0.02}
    finding = assess_prior(DiscreteVP.linear(10), 64, written)
    assert finding.severity == "problem" and "log-SNR +2.24" in finding.evidence
    assert "system.process.num_steps=660 or system.process.beta_end=0.83" in finding.advice
    assert assess_prior(DiscreteVP.linear(660), 64).severity == "ok"
