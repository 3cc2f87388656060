"""Studies of images: the forward process, progressive generation, shared latents and both interpolations."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_product import mostly_slow
from undiffuse.core.process import Process
from undiffuse.core.processes import VESDE, VPSDE, DiscreteVP, EDMProcess, FlowProcess, GeometricVE, SubVPSDE
from undiffuse.data.dataset import ArrayDataset
from undiffuse.errors import UsageError
from undiffuse.models.saved import Model
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import sample
from undiffuse.samplers.noise import SeededNoise
from undiffuse.studies.images.context import ImageStudyContext, Plan, real_pairs, sampling_plan
from undiffuse.studies.images.denoising_trajectory import (
    DenoisingTrajectoryOptions,
    Film,
    band_energies,
    determined_from,
    film,
    missing,
    study_denoising_trajectory,
)
from undiffuse.studies.images.forward import (
    ForwardOptions,
    chain_times,
    compose,
    composed_coefficients,
    expected,
    measure,
    sampling_error,
    study_forward,
)
from undiffuse.studies.images.interpolants import angles, evenly, linear, mixed, spherical
from undiffuse.studies.images.interpolation import (
    InterpolationOptions,
    Pairs,
    interpolate,
    measured,
    study_interpolation,
    way_of,
)
from undiffuse.studies.images.prior_interpolation import (
    Denoised,
    Frames,
    PriorInterpolationOptions,
    frames_between,
    study_prior_interpolation,
)
from undiffuse.studies.images.shared_latent import (
    SharedLatentOptions,
    deviation,
    family,
    latents_at,
    same_class,
    study_shared_latent,
)
from undiffuse.studies.images.times import matched_times, time_label, visible
from undiffuse.studies.plots import image_grid, plot_style

PROCESSES = {
    "ddpm": DiscreteVP.linear(50, 1e-3, 0.2),
    "vp": VPSDE(),
    "sub_vp": SubVPSDE(),
    "ve": VESDE(0.02, 32.0),
    "ncsn": GeometricVE(20, 0.02, 32.0),
    "edm": EDMProcess(),
    "flow": FlowProcess(),
}
SIDE = 8


def nothing(done: int, total: int) -> None:
    """No one to tell."""


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pixels in the figures."""
    monkeypatch.setattr(plot_style, "DPI", 60)


def tiny(classes: tuple[str, ...] = (), **config: Any) -> ImageStudyContext:
    """A fresh network, its output layer not at zero, with 40 images of 8 x 8."""
    torch.manual_seed(0)
    network = {"name": "unet", "channels": 8, "multipliers": [1], "num_blocks": 1, "norm_groups": 4}
    values = {"network": network, "class_conditional": bool(classes), "sampling": {"num_steps": 6}, **config}
    system = DiffusionConfig.model_validate(values).build((1, SIDE, SIDE), classes).model
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = np.random.default_rng(0).integers(0, 256, (40, 1, SIDE, SIDE), dtype=np.uint8)
    labels = np.arange(40) % len(classes) if classes else None
    data = ArrayDataset("made", images, labels, classes, {})
    record = {"config": {"data": {"name": "digits"}}, "model": {"class_names": list(classes)}}
    model = Model(system.eval(), record, Path("none"), "")
    return ImageStudyContext(model, lambda: (data, data.subset(range(20))), seed=3)


# --- the forward process


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_single_steps_compose_to_the_closed_form_exactly(process: Process) -> None:
    times = chain_times(process, None if process.knots is not None else 40)
    num = len(times)  # draws: a row each, and one row for the image
    draws = iter(range(num + 1))

    def unit_row(like: Tensor) -> Tensor:
        out = torch.zeros_like(like)
        out[1 + next(draws)] = 1
        return out

    x_0 = torch.zeros(num + 1, 1, dtype=torch.float64)
    x_0[0] = 1
    for t, x in zip(times, compose(process, times, x_0, unit_row), strict=True):
        assert float(x[0]) == pytest.approx(float(process.alpha(t[None])), abs=1e-12)
        assert float(x[1:].square().sum()) == pytest.approx(float(process.sigma(t[None]) ** 2), rel=1e-9, abs=1e-15)
    alpha, variance = composed_coefficients(process, times)
    assert torch.allclose(alpha, process.alpha(times), rtol=0, atol=1e-12)
    assert torch.allclose(variance, process.sigma(times) ** 2, rtol=1e-9, atol=1e-15)


def test_a_chain_has_its_own_knots() -> None:
    chain = PROCESSES["ddpm"]
    assert chain.knots is not None
    assert torch.equal(chain_times(chain), chain.knots)
    assert torch.equal(chain_times(chain, 50), chain.knots)
    assert len(chain_times(VPSDE())) == 1001
    with pytest.raises(UsageError, match="50 steps of its own, got steps=7"):
        chain_times(chain, 7)


def test_variance_is_kept_where_the_process_is_variance_preserving() -> None:
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.allclose(expected(VPSDE(), times, 0.0, 1.0).variance, torch.ones(11).double(), atol=1e-12)
    assert float(expected(FlowProcess(), times, 0.3, 1.0).variance[5]) == pytest.approx(0.5)
    assert float(expected(FlowProcess(), times, 0.3, 1.0).mean[5]) == pytest.approx(0.15)


def test_the_sampling_error_is_that_of_repeated_measurements() -> None:
    process, t = FlowProcess(), torch.tensor([0.4], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randn(200, generator=generator, dtype=torch.float64)
    x_0 = 1.7 * (x_0 - x_0.mean()) / x_0.std(correction=0)
    eps = torch.randn(20_000, 200, generator=generator, dtype=torch.float64)
    x_t = 0.6 * x_0 + 0.4 * eps
    error = sampling_error(process, t, 1.7**2, 200)
    assert float(x_t.mean(1).std()) == pytest.approx(float(error.mean), rel=0.03)
    assert float(x_t.var(dim=1, correction=0).std()) == pytest.approx(float(error.variance), rel=0.03)


@pytest.mark.parametrize("name", ["ddpm", "ve", "flow"])
def test_measured_moments_stay_within_their_errors(name: str) -> None:
    process = PROCESSES[name]
    times = chain_times(process, None if process.knots is not None else 30)
    at = list(range(0, len(times), 5))
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.rand(64, 1, SIDE, SIDE, generator=generator) * 2 - 1
    done = measure(
        process, times, at, at[:2], x_0, 2, lambda like: torch.randn(like.shape, generator=generator), nothing
    )
    error = sampling_error(process, times[at], 1.0, x_0.numel())
    truth = expected(process, times[at], 0.0, 1.0)
    for unit, raw in zip(done.unit, done.raw, strict=True):
        assert bool(((unit.variance - truth.variance).abs() <= 4.5 * error.variance + 1e-6).all())
        assert bool(((unit.mean - truth.mean).abs() <= 4.5 * error.mean + 1e-6).all())
        of_raw = process.alpha(times[at]) * done.mean
        assert bool(((raw - of_raw).abs() <= 4.5 * error.mean + 1e-6).all())
    assert done.films.shape == (2, 2, 2, 1, SIDE, SIDE)


# --- times


def test_matched_times_have_the_noise_of_ddpm() -> None:
    subject = tiny()
    fractions = [0.25, 0.5, 0.9]
    wanted = DiscreteVP.linear().log_snr(torch.tensor(fractions, dtype=torch.float64))
    times = torch.tensor(matched_times(subject, fractions), dtype=torch.float64)
    assert torch.allclose(subject.process.log_snr(times), wanted, atol=1e-9)
    assert matched_times(subject, [0.0]) == [0.0]
    ddpm = tiny(process={"name": "ddpm_linear"}, parameterization="eps", weighting={"name": "simple"})
    assert matched_times(ddpm, fractions) == pytest.approx(fractions, abs=1e-12)
    assert time_label(FlowProcess(), 0.5) == "t = 0.5\nλ = 0.0"
    assert time_label(FlowProcess(), 1.0) == "t = 1\nλ = −∞"


def test_x_t_is_shown_whole() -> None:
    flow = FlowProcess()
    assert visible(flow, torch.tensor([[[[1.0, -1.0]]]]), 0.0).flatten().tolist() == [255, 0]
    assert visible(flow, torch.tensor([[[[2.0, 0.0]]]]), 1.0).flatten().tolist() == [255, 128]


# --- mixing


def test_mixes_have_exact_ends_and_the_great_circle_keeps_the_norm() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, 4, 3, 16, 16, generator=generator, dtype=torch.float64)
    a, b = (x / x.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for x in (a, b))
    for mix in (linear, spherical):
        assert torch.equal(mix(a, b, 0.0), a) and torch.equal(mix(a, b, 1.0), b)
    for weight in (0.1, 0.5, 0.8):
        between = spherical(a, b, weight)
        assert torch.allclose(between.flatten(1).norm(dim=1), torch.ones(4).double(), atol=1e-12)
        assert torch.allclose(angles(a, between), weight * angles(a, b), atol=1e-9)  # at an even pace
    right = torch.eye(2, dtype=torch.float64)
    assert float(linear(right[:1], right[1:], 0.5).norm()) == pytest.approx(math.sqrt(0.5))


def test_parallel_and_zero_rows_are_mixed_linearly() -> None:
    a = torch.tensor([[1.0, 2.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[2.0, 4.0], [-1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(spherical(a, b, 0.25), linear(a, b, 0.25))
    assert mixed(a, b, [0.0, 0.5, 1.0], "linear").shape == (3, 3, 2)
    assert evenly(5) == [0.0, 0.25, 0.5, 0.75, 1.0]


# --- interpolation of prior noise


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "ddim"])
@pytest.mark.parametrize("classes", [(), ("a", "b", "c")])
def test_the_ends_are_the_samples_of_their_seeds(sampler: str, classes: tuple[str, ...]) -> None:
    subject = tiny(classes)
    frames = frames_between(subject, Denoised(Plan(sampler, 4)), "spherical", 2, evenly(5), None, nothing)
    names = [name for name in classes[:2] for _ in range(2)] or None
    own = subject.model.sample(4, steps=4, seed=3, sampler=sampler, class_name=names).numpy()
    assert np.array_equal(subject.finish(frames.x[:, 0]), own[0::2])
    assert np.array_equal(subject.finish(frames.x[:, -1]), own[1::2])
    assert not np.array_equal(subject.finish(frames.x[:, 2]), own[0::2])
    output_layer = subject.denoise_from(
        SeededNoise([3, 5]).prior(torch.empty(2, 1, SIDE, SIDE)),
        subject.times(4),
        sampler=sampler,
        cond=subject.condition(2),
    )
    assert torch.equal(frames.x[:, 0], output_layer)  # flow starts from N(0, I)


def test_step_noise_is_shared_and_the_first_end_is_its_seeds_sample() -> None:
    subject = tiny()
    frames = frames_between(subject, Denoised(Plan("ancestral", 4)), "linear", 1, evenly(3), None, nothing)
    own = subject.model.sample(2, steps=4, seed=3, sampler="ancestral").numpy()
    assert np.array_equal(subject.finish(frames.x[0, :1]), own[:1])
    assert not np.array_equal(subject.finish(frames.x[0, -1:]), own[1:])
    times = subject.times(4)
    prior = SeededNoise([4]).prior(torch.empty(1, 1, SIDE, SIDE))
    other = sample(
        subject.denoiser, make_sampler("ancestral"), times, shape=subject.shape, seeds=[3], x_start=prior
    )  # the start of seed 4, the steps of seed 3
    assert torch.equal(frames.x[0, -1:], other.x)


def test_the_straight_line_falls_to_root_half() -> None:
    subject = tiny()
    spherically = frames_between(subject, Denoised(Plan("heun", 1)), "spherical", 6, evenly(3), None, nothing)
    straight = frames_between(subject, Denoised(Plan("heun", 1)), "linear", 6, evenly(3), None, nothing)
    assert straight.norm[:, 1].mean() == pytest.approx(math.sqrt(0.5), abs=0.05)
    assert spherically.norm[:, 1].mean() == pytest.approx(1, abs=0.05)
    x = torch.zeros(2, 1, 1, 2, 2)
    x[1, 0, 0, :, 1] = 1  # one of two images has a step across, between two of its four neighbours
    created = Frames(torch.ones(2, 1), x)
    assert float(created.sharpness) == pytest.approx(0.5) and float(created.spread) == pytest.approx(0.5)


# --- interpolation of real images


def pairs_of(subject: ImageStudyContext, num: int = 2) -> Pairs:
    a, b, cond = real_pairs(subject, num)
    return Pairs(subject.to_x(a), subject.to_x(b), cond, subject.seeds(num))


def test_at_t_0_the_images_themselves_are_mixed() -> None:
    subject = tiny()
    pairs, weights = pairs_of(subject), evenly(3)
    for mode in ("stochastic", "deterministic"):
        way = way_of(subject, InterpolationOptions(mode=mode, mix="linear"))
        x = interpolate(subject, way, pairs, 0.0, weights, nothing).x
        assert torch.equal(x[:, 0], pairs.a) and torch.equal(x[:, 2], pairs.b)
        assert torch.allclose(x[:, 1], (pairs.a + pairs.b) / 2)


def test_a_stochastic_end_is_the_image_noised_and_denoised() -> None:
    subject = tiny()
    way = way_of(subject, InterpolationOptions(steps=8))
    assert way.plan == Plan("ancestral", 8) and way.mix == "linear"
    pairs = pairs_of(subject)
    x = interpolate(subject, way, pairs, 0.6, evenly(4), nothing).x
    eps = SeededNoise(pairs.seeds).prior(pairs.a)
    times = subject.times(8, start=0.6)
    assert float(times[0]) == 0.6
    for column, end in ((0, pairs.a), (-1, pairs.b)):
        x_t = 0.4 * end + 0.6 * eps  # the flow's alpha and sigma; the same noise for both, before t and after
        alone = subject.denoise_from(x_t, times, sampler="ancestral", noise=SeededNoise(pairs.seeds))
        assert torch.allclose(x[:, column], alone, atol=1e-5)


@pytest.mark.parametrize("classes", [pytest.param((), marks=pytest.mark.slow), ("a", "b")])
def test_the_deterministic_way_leads_back(classes: tuple[str, ...]) -> None:
    subject = tiny(classes)
    pairs = pairs_of(subject)
    errors = []
    for steps in (12, 48):
        way = way_of(subject, InterpolationOptions(mode="deterministic", steps=steps))
        assert way.mix == "spherical"
        frames = interpolate(subject, way, pairs, 0.7, evenly(3), nothing)
        errors.append(measured(frames.x, pairs.a, pairs.b, []).reconstruction_rms)
    assert errors[1] < 0.03 and errors[1] < errors[0] / 4  # a method of second order
    sampled = way_of(subject, InterpolationOptions(mode="deterministic", sampler="heun", steps=24))
    other = interpolate(subject, sampled, pairs, 0.7, evenly(3), nothing)
    assert not sampled.ode and measured(other.x, pairs.a, pairs.b, []).reconstruction_rms < 0.5


def test_a_pair_is_of_one_class_and_the_classes_take_turns() -> None:
    subject = tiny(("a", "b", "c"))
    a, b, cond = real_pairs(subject, 4)
    train = subject.data[0]
    everything, labels = train.fetch(range(40)).items, train.labels
    assert labels is not None and cond is not None and cond.label is not None
    assert cond.label.tolist() == [0, 1, 2, 0]
    for row, label in enumerate([0, 1, 2, 0]):
        found = [int((everything == image).flatten(1).all(1).nonzero()) for image in (a[row], b[row])]
        assert labels[found].tolist() == [label, label] and found[0] != found[1]
    assert real_pairs(subject, 2, "b")[2].label.tolist() == [1, 1]  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="unknown class 'd'"):
        real_pairs(subject, 2, "d")


def test_pairs_come_from_training_where_too_little_was_held_out() -> None:
    subject = tiny(("a", "b"))
    train = subject.data[0]
    few = ImageStudyContext(subject.model, lambda: (train, train.subset([0, 2, 4, 1])), seed=3)  # one "b" alone
    a, b, _ = real_pairs(few, 2)
    assert not torch.equal(a[1], b[1])
    none = ImageStudyContext(subject.model, lambda: (train.subset([0, 2, 1]), train.subset([])), seed=3)
    with pytest.raises(UsageError, match="a pair of class 'b' needs 2 real images, the data has 1"):
        real_pairs(none, 2)


def test_numbers_of_a_straight_line_and_of_a_jump() -> None:
    a, b = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    straight = measured(mixed(a, b, evenly(5), "linear"), a, b, [])
    assert straight.path_length == pytest.approx(1) and straight.largest_step_share == pytest.approx(0.25)
    assert straight.reconstruction_rms == 0 and straight.departure == pytest.approx(0)
    jump = measured(torch.stack([a, a, b, b, b], dim=1), a, b, [])
    assert jump.largest_step_share == pytest.approx(1) and jump.departure == pytest.approx(1)
    detour = measured(torch.stack([a, b, a, a, b - 0.5], dim=1), a, b, [])
    assert detour.path_length == pytest.approx(2.5) and detour.reconstruction_rms == pytest.approx(math.sqrt(0.125))


def test_a_stochastic_sampler_does_not_decode_a_deterministic_mode() -> None:
    with pytest.raises(UsageError, match="sampler='ancestral', which draws some"):
        way_of(tiny(), InterpolationOptions(mode="deterministic", sampler="ancestral"))


# --- progressive generation and shared latents


def test_a_film_holds_every_step_and_ends_in_the_sample() -> None:
    subject = tiny()
    done = film(subject, Plan("ddim", 5), 3, None, nothing)
    assert done.x.shape == done.x_0.shape == (5, 3, 1, SIDE, SIDE) and len(done.times) == 6
    own = subject.model.sample(3, steps=5, seed=3, sampler="ddim").numpy()
    assert np.array_equal(subject.finish(done.final), own)
    with torch.no_grad():
        t = done.times[2].expand(3)
        assert torch.equal(subject.denoiser(done.x[2], t).x_0, done.x_0[2])


def test_bands_hold_their_waves_and_share_all_energy() -> None:
    x = torch.arange(16, dtype=torch.float64) / 16

    def wave(cycles: int) -> Tensor:
        return torch.cos(2 * math.pi * cycles * x).expand(1, 1, 16, 16)

    for cycles, band in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (8, 2)):
        energy = band_energies(wave(cycles), (2.0, 4.0))
        assert float(energy[band]) == pytest.approx(float(energy.sum()), rel=1e-9)
    noise = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(band_energies(noise, (2.0, 4.0)).sum()) == pytest.approx(float(noise.square().sum()), rel=1e-9)
    final = noise.float()
    created = Film(
        torch.zeros(3), torch.zeros(2, 3, 1, 16, 16), torch.stack([final.mean(0).expand_as(final), final]), final
    )
    share = missing(created, (2.0, 4.0))  # of three images their own mean already knows a third
    assert torch.allclose(share[0], torch.full((3,), 2 / 3).double(), atol=1e-5) and float(share[1].max()) == 0
    assert (
        determined_from(torch.tensor([1.0, 0.4, 0.6, 0.5, 0.1])) == 3 and determined_from(torch.tensor([1.0, 0.9])) == 2
    )


def test_siblings_begin_at_their_parents_x_t_and_differ_by_noise_alone() -> None:
    subject, plan = tiny(), Plan("ancestral", 6)
    levels = [1.0, 0.55, 0.2]
    latents = latents_at(subject, plan, levels, None, 2, nothing)
    assert torch.equal(latents[1.0], SeededNoise([3, 4]).prior(latents[1.0]))
    one = family(subject, plan, 0.55, latents[0.55], None, 3, nothing)
    alone = subject.denoise_from(
        latents[0.55][1:], subject.times(6, start=0.55), sampler="ancestral", noise=SeededNoise([3 + 2 + 4])
    )
    assert torch.equal(one.children[1, 1], alone[0])
    assert deviation(one.children) > 0
    same = family(subject, Plan("ddim", 6), 0.55, latents[0.55], None, 3, nothing)
    assert deviation(same.children) == 0  # which is why the sampler must be stochastic


def test_deviation_and_agreement_of_siblings() -> None:
    children = torch.stack([torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)], dim=1)  # (1, 2, 1, 2, 2)
    assert deviation(children) == pytest.approx(math.sqrt(0.5))
    assert same_class(np.array([[1, 1, 1]])) == 1 and same_class(np.array([[1, 2, 3], [1, 1, 2]])) == pytest.approx(
        1 / 6
    )


def test_the_sampler_is_stochastic_where_it_must_be() -> None:
    subject = tiny()
    assert sampling_plan(subject, None, None) == Plan("heun", 6)
    assert sampling_plan(subject, None, None, stochastic=True) == Plan("ancestral", 100)
    assert sampling_plan(subject, "dpmpp_2m_sde", 7, stochastic=True) == Plan("dpmpp_2m_sde", 7)
    own = tiny(sampling={"sampler": "ddim:eta=1", "num_steps": 9})
    assert sampling_plan(own, None, None, stochastic=True) == Plan("ddim:eta=1", 9)
    with pytest.raises(UsageError, match="stochastic sampler, got 'heun'"):
        study_shared_latent(subject, SharedLatentOptions(sampler="heun"), Path(), nothing)
    with pytest.raises(UsageError, match="t = 0"):
        study_shared_latent(subject, SharedLatentOptions(t=(0.0,)), Path(), nothing)


# --- the figures


STUDIES: dict[str, tuple[Callable[..., Any], Any]] = {
    "forward": (study_forward, ForwardOptions(steps=20, num=8, rows=1)),
    "denoising-trajectory": (study_denoising_trajectory, DenoisingTrajectoryOptions(num=2, rows=1, steps=4)),
    "shared": (study_shared_latent, SharedLatentOptions(t=(1.0, 0.3), num=1, siblings=2, steps=3)),
    "interpolation": (study_interpolation, InterpolationOptions(levels=(0.0, 0.4, 1.0), pairs=2, frames=3, steps=3)),
    "deterministic": (
        study_interpolation,
        InterpolationOptions(mode="deterministic", levels=(0.5, 1.0), pairs=1, frames=3, steps=3, t=0.4),
    ),
    "prior": (study_prior_interpolation, PriorInterpolationOptions(mix="both", pairs=2, frames=3, steps=2)),
    "prior noise": (
        study_prior_interpolation,
        PriorInterpolationOptions(pairs=2, frames=3, steps=2, sampler="ancestral"),
    ),
}


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_writes_its_figures_and_reports_of_progress(name: str, tmp_path: Path) -> None:
    run, options = STUDIES[name]
    shares: list[float] = []
    figures = run(tiny(), options, tmp_path, lambda done, total: shares.append(done / total))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(figure.file for figure in figures)
    assert shares == sorted(shares) and shares[-1] == 1
    for figure in figures:
        assert figure.caption.endswith(".") and figure.formula and "`undiffuse." in figure.source
        assert plot_style.plain(figure.numbers)


@pytest.mark.parametrize("name", mostly_slow(PROCESSES, "ddpm", "ve", "flow"))
def test_studies_that_start_within_the_grid_know_every_process(name: str, tmp_path: Path) -> None:
    config: dict[str, dict[str, Any]] = {
        "ddpm": {"process": {"name": "ddpm_linear", "num_steps": 50, "beta_start": 1e-3, "beta_end": 0.2}},
        "ve": {"process": {"name": "ve", "sigma_min": 0.02, "sigma_max": 32.0}},
        "ncsn": {"process": {"name": "ncsn", "num_steps": 20, "sigma_min": 0.02, "sigma_max": 32.0}},
    }
    chosen = config.get(name, {"process": {"name": name}})
    subject = tiny(**chosen, parameterization="edm", weighting={"name": "edm"})
    options = InterpolationOptions(levels=(0.0, 0.5, 1.0), pairs=1, frames=3, steps=4)
    fine = study_interpolation(subject, options, tmp_path, nothing)[1].numbers
    assert all(math.isfinite(level["departure"]) for level in fine["levels"])
    shared = study_shared_latent(
        subject, SharedLatentOptions(t=(1.0, 0.5), num=1, siblings=2, steps=3), tmp_path, nothing
    )[0].numbers
    assert all(math.isfinite(level["deviation"]) for level in shared["levels"])


# --- sheets


def test_a_sheet_enlarges_by_whole_factors_and_frames() -> None:
    image = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2) * 60
    table = image_grid.Table([image.repeat(2, axis=0)], frames={(0, 1): "#102030"}, gaps=[1])
    figure, axes = image_grid.draw([table], num_charts=2)
    assert len(axes) == 2
    drawn = figure.axes[0].images[0].get_array()
    cell = image_grid.SIDE
    assert drawn[2, 2, 0] == 0 and drawn[2, 2 + cell - 1, 0] == 60 and drawn[2 + cell - 1, 2 + cell - 1, 0] == 180
    assert (drawn[2 : 2 + cell // 2, 2 : 2 + cell // 2] == 0).all()
    assert (drawn == np.array([0x10, 0x20, 0x30])).all(-1).sum() > 4 * cell
    large = np.full((1, 3, 400, 300), 7, dtype=np.uint8)
    assert image_grid._resize(large).shape == (1, 3, 133, 100)
