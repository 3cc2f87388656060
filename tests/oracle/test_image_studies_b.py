"""Studies of trained models of images against closed forms, and against copies that were planted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from undiffuse.conditioning.labels import LabelConditioner
from undiffuse.core.condition_spec import UNCONDITIONAL
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import VPSDE, EDMProcess, FlowProcess
from undiffuse.core.space import Space
from undiffuse.data.dataset import ArrayDataset, Dataset
from undiffuse.errors import UsageError
from undiffuse.metrics.features import load_features
from undiffuse.metrics.kernel import kernel_distance
from undiffuse.metrics.set_distance import KernelSetDistance
from undiffuse.models.base import DenoisingModel
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import Model
from undiffuse.samplers.base import Sampled
from undiffuse.samplers.noise import SeededNoise
from undiffuse.studies.ablations.one_class import class_share, markdown, other_images, row_texts, scores, target_of
from undiffuse.studies.images.context import ImageStudyContext
from undiffuse.studies.images.neighbours import NeighboursOptions, study_neighbours
from undiffuse.studies.images.noise_levels import (
    NoiseLevelsOptions,
    level_grid,
    linear_error,
    loss_by_level,
    study_noise_levels,
    training_levels,
)
from undiffuse.studies.images.noise_prediction import moments_of
from undiffuse.studies.images.reference_distances import Real, Scale, centre_of, distances_to
from undiffuse.studies.images.selection import SelectionOptions, candidates, study_selection
from undiffuse.studies.images.sweep import SweepOptions

SHAPE = (1, 4, 4)
PROCESSES: list[Process] = [VPSDE(), FlowProcess(), EDMProcess()]


class ExactSystem(DenoisingModel):
    """The exact denoiser of Gaussian images; its samples are images that a test chose."""

    def __init__(self, process: Process, variances: Tensor, samples: Tensor | None = None) -> None:
        super().__init__()
        self.conditioner = LabelConditioner(UNCONDITIONAL)
        self.process, self.space, self.class_names = process, Space.of_data(SHAPE), ()
        self.mixture = GaussianMixture.gaussian(torch.zeros_like(variances), variances)
        self.samples = samples
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def denoiser(self, precision: str | None = None) -> Denoiser:
        return self.mixture.denoiser(self.process)

    def sampling_denoiser(self) -> Denoiser:
        return self.denoiser()

    def sample(self, request: SampleRequest) -> Sampled:
        assert self.samples is not None
        return Sampled(self.samples[list(request.seeds)].float() / 127.5 - 1, 1)

    def sampling_record(self) -> dict[str, Any]:
        return {"sampler": "heun", "steps": 5, "grid": "uniform"}


def subject_of(
    system: ExactSystem, train: Tensor | None = None, held_out: Tensor | None = None, **config: Any
) -> ImageStudyContext:
    """A subject whose training and held-out images are given."""

    def dataset(images: Tensor | None) -> Dataset:
        array = np.zeros((0, *SHAPE), np.uint8) if images is None else images.numpy()
        return ArrayDataset("made", array)

    record = {"config": {"data": {"name": "made"}, "system": config}, "model": {"class_names": []}}
    return ImageStudyContext(Model(system, record, Path("made"), ""), lambda: (dataset(train), dataset(held_out)))


def noise_images(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=generator)


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_the_predicted_noise_of_gaussian_data_has_the_deviation_of_the_closed_form(process: Process) -> None:
    variance = 0.25
    system = ExactSystem(process, torch.full((16,), variance))
    x_0 = math.sqrt(variance) * torch.randn(2000, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    log_snr = torch.tensor([6.0, 1.0, -3.0], dtype=torch.float64)
    moments = moments_of(subject_of(system), system.denoiser(), x_0, log_snr)
    snr = torch.exp(log_snr)
    # eps-hat = sigma x_t / (alpha^2 v + sigma^2), and x_t has the variance alpha^2 v + sigma^2
    torch.testing.assert_close(moments["std"], 1 / torch.sqrt(1 + variance * snr), rtol=0.015, atol=0)
    torch.testing.assert_close(moments["error"], variance * snr / (1 + variance * snr), rtol=0.03, atol=0)
    torch.testing.assert_close(moments["std"] ** 2 + moments["error"], torch.ones(3).double(), rtol=0.02, atol=0)
    assert float(moments["mean"].abs().max()) < 0.02


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_the_loss_by_level_is_that_of_the_posterior_variance(process: Process) -> None:
    variances = torch.linspace(0.01, 1, 16).double()
    system = ExactSystem(process, variances)
    x_0 = (
        variances.sqrt().reshape(SHAPE) * torch.randn(2000, *SHAPE, generator=torch.Generator().manual_seed(2)).double()
    )
    log_snr = torch.tensor([5.0, 0.0, -4.0], dtype=torch.float64)
    rows = loss_by_level(system, x_0, log_snr, SeededNoise(range(2000)))
    assert rows.shape == (3, 2000)
    by_hand = [float((variances * s / (1 + variances * s)).mean()) for s in torch.exp(log_snr).tolist()]
    torch.testing.assert_close(rows.mean(1), torch.tensor(by_hand).double(), rtol=0.02, atol=0)
    torch.testing.assert_close(linear_error(variances, log_snr), torch.tensor(by_hand).double())


def test_the_levels_of_an_exact_model_lie_on_the_best_linear_denoiser(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    images = (127.5 + 30 * torch.randn(700, *SHAPE, generator=generator)).round().clamp(0, 255).to(torch.uint8)
    system = ExactSystem(FlowProcess(), torch.full((16,), (30 / 127.5) ** 2))
    density = {"name": "logit_normal", "mean": 0.0, "std": 1.0}
    subject = subject_of(system, images[:500], images[500:], time_density=density)
    (figure,) = study_noise_levels(subject, NoiseLevelsOptions(num=200, levels=3), tmp_path, silent)
    assert (tmp_path / "noise_levels.png").is_file()
    for level in figure.numbers["levels"]:
        assert level["error_held_out"] == pytest.approx(level["linear"], rel=0.05)
        assert abs(level["gap"]) < 4 * level["gap_standard_error"]
        assert level["mean_picture"] == pytest.approx(math.exp(level["log_snr"]) * (30 / 127.5) ** 2, rel=0.05)
        assert level["x_t_over_alpha"] == 1
        assert all(re.fullmatch("[a-z0-9_]+", key) for key in level)
        assert level["factor_v"] == pytest.approx(1 + math.exp(-level["log_snr"]))
    assert figure.numbers["pictures"] == {"training": 200, "held_out": 200}


def test_the_levels_shown_are_those_of_training() -> None:
    system = ExactSystem(FlowProcess(), torch.ones(16))
    subject = subject_of(system, time_density={"name": "logit_normal", "mean": 0.5, "std": 1.0})
    drawn = training_levels(subject)
    assert drawn is not None
    # on straight paths the log-SNR is -2 logit(t)
    assert float(drawn.mean()) == pytest.approx(-1.0, abs=1e-3)
    assert float(drawn.std()) == pytest.approx(2.0, abs=0.01)
    grid = level_grid(subject, 5, tail=0.025)
    assert grid[[0, -1]].tolist() == pytest.approx([-1 + 2 * 1.96, -1 - 2 * 1.96], abs=0.02)
    assert bool((grid.diff() < 0).all())
    assert training_levels(subject_of(system)) is None


@pytest.mark.parametrize("num_held_out", [400, 0])
def test_planted_copies_are_marked_in_every_space(tmp_path: Path, num_held_out: int) -> None:
    train, samples = noise_images(60, 1), noise_images(20, 2)
    samples[3], samples[7] = train[11], train[40]
    samples[7, 0, 0, 0] ^= 1  # all but a copy
    held_out = noise_images(num_held_out, 3) if num_held_out else None
    subject = subject_of(ExactSystem(FlowProcess(), torch.ones(16), samples), train, held_out)
    options = NeighboursOptions(num=20, shown=2, k=3, features="pixels", crop=0.5)
    figures = study_neighbours(subject, options, tmp_path, silent)
    assert [figure.file for figure in figures] == [
        "neighbours_pixels.png",
        "neighbours_features.png",
        "neighbours_crop.png",
    ]
    for figure in figures:
        copies = {row["seed"]: row["training_item"] for row in figure.numbers["marked"] if row["likely_copy"]}
        assert copies[3] == 11 and copies[7] == 40
        assert figure.numbers["scale"] == ("held-out images" if num_held_out else "training images")
    # others may be marked by chance, one in 400 against the held-out images
    assert [row["seed"] for row in figures[0].numbers["marked"]][:2] == [3, 7]
    assert 2 <= figures[0].numbers["likely_copies"] <= 3
    assert figures[0].numbers["marked"][0]["distance"] == 0


def test_samples_like_real_images_are_not_marked(tmp_path: Path) -> None:
    subject = subject_of(
        ExactSystem(FlowProcess(), torch.ones(16), noise_images(30, 5)), noise_images(60, 1), noise_images(300, 3)
    )
    figures = study_neighbours(subject, NeighboursOptions(num=30, shown=2, k=2, features="pixels"), tmp_path, silent)
    assert figures[0].numbers["likely_copies"] == 0
    assert figures[0].numbers["ratio"] == pytest.approx(1, abs=0.1)


def test_a_real_image_is_never_its_own_neighbour() -> None:
    images = torch.tensor([[0.0], [1.0], [10.0], [10.0]])
    real = Real(images[[1, 3]], torch.tensor([1, 3]))
    found = real.nearest(distances_to, real.images, images)
    assert found.distances.flatten().tolist() == [1.0, 0.0]
    assert found.indices.flatten().tolist() == [0, 2]
    # a pool without the second reference: the place of each in it is stated
    pool = torch.tensor([1, 2, 3])
    found = real.nearest(distances_to, real.images, images[pool], torch.searchsorted(pool, torch.tensor([1, 3])))
    assert found.indices.flatten().tolist() == [1, 1]


def test_the_scale_marks_what_is_nearer_than_real_images_are() -> None:
    scale = Scale.of(torch.linspace(1, 2, 101))
    distances = torch.tensor([0.0, 0.99, 1.005, 1.5])
    assert scale.copies(distances).tolist() == [True, True, False, False]
    assert scale.near(distances).tolist() == [True, True, True, False]
    assert Scale.of(torch.zeros(3)).copies(torch.tensor([0.0, 0.1])).tolist() == [True, False]


def test_a_crop_is_the_middle() -> None:
    image = torch.arange(36).reshape(1, 1, 6, 6)
    assert centre_of(image, 1 / 3).flatten().tolist() == [14, 15, 20, 21]
    assert centre_of(image, 1.0).shape == image.shape
    assert centre_of(image, 0.01).shape == (1, 1, 1, 1)


@pytest.mark.parametrize("distance", ["pixels", "features"])
def test_the_selection_marks_planted_copies(tmp_path: Path, distance: str) -> None:
    train, samples = noise_images(60, 1), noise_images(12, 2)
    samples[5] = train[20]
    subject = subject_of(ExactSystem(FlowProcess(), torch.ones(16), samples), train, noise_images(30, 3))
    options = SelectionOptions(num=12, k=3, distance=distance)
    (figure,) = study_selection(subject, options, tmp_path, silent)
    first, *rest = figure.numbers["picked"]
    assert (first["seed"], first["distance"], first["training_item"]) == (5, 0, 20)
    assert first["likely_copy"] and not any(row["likely_copy"] and row["seed"] != 5 for row in rest[1:])
    assert [row["distance"] for row in figure.numbers["picked"]] == sorted(row["distance"] for row in [first, *rest])
    assert figure.numbers["picked_mean"] < figure.numbers["between_batches_mean"]


def test_lpips_finds_the_copy_of_an_image_that_no_neighbour_in_pixels_hides(tmp_path: Path, shared_data: Path) -> None:
    weights = shared_data / "weights" / "lpips-alex" / "lpips_alexnet.npz"
    if not weights.is_file():
        pytest.skip("no LPIPS weights among the real data")
    train, samples = noise_images(30, 1), noise_images(6, 2)
    samples[4] = train[9]
    subject = subject_of(ExactSystem(FlowProcess(), torch.ones(16), samples), train, noise_images(8, 3))
    options = SelectionOptions(num=6, k=2, candidates=2, weights=str(weights))
    (figure,) = study_selection(subject, options, tmp_path, silent)
    first = figure.numbers["picked"][0]
    assert (first["seed"], first["training_item"], first["likely_copy"]) == (4, 9, True)
    assert figure.numbers["num_searched"] <= 2 * (6 + 8)


def test_candidates_are_the_nearest_of_any_image() -> None:
    references = torch.arange(8).reshape(-1, 1, 1, 1).to(torch.uint8) * 10
    queries = torch.tensor([1, 69], dtype=torch.uint8).reshape(-1, 1, 1, 1)
    assert candidates(queries, references, 2).tolist() == [0, 1, 6, 7]
    assert candidates(queries, references, 99).tolist() == list(range(8))


def test_a_subject_without_real_images_is_rejected(tmp_path: Path) -> None:
    subject = subject_of(ExactSystem(FlowProcess(), torch.ones(16), noise_images(2, 1)), noise_images(2, 2))
    with pytest.raises(UsageError, match="needs real images as a reference"):
        study_neighbours(subject, NeighboursOptions(num=2, k=1, features="pixels"), tmp_path, silent)


def test_samplers_and_steps_are_read_from_text() -> None:
    options = SweepOptions.model_validate({"samplers": "heun,pc:snr=0.1,corrector_steps=2,ddim", "steps": "5, 10"})
    assert options.samplers == ("heun", "pc:snr=0.1,corrector_steps=2", "ddim")
    assert options.steps == (5, 10)
    assert SweepOptions.model_validate({"steps": 3}).steps == (3,)


def test_reference_images_and_those_for_scale_are_never_the_same() -> None:
    kept, others = other_images(50, 20, seed=1)
    assert len(others) == 20 and len(kept) == 30
    assert sorted([*kept.tolist(), *others.tolist()]) == list(range(50))
    with pytest.raises(UsageError, match="--num 25 or fewer"):
        other_images(50, 30, seed=1)


def test_scores_prefer_samples_of_the_target() -> None:
    generator = torch.Generator().manual_seed(4)
    draw: Callable[[int], Tensor] = lambda count: torch.randn(count, 4, generator=generator).double()  # noqa: E731
    target = target_of(_Identity(), draw(300), 200, "pictures")
    same, shifted, narrow = draw(200), draw(200) + 3, 0.2 * draw(200)
    good, far, poor = (scores(rows, target) for rows in (same, shifted, narrow))
    assert good["frechet"] < 0.3 < poor["frechet"] < far["frechet"]
    assert far["frechet"] == pytest.approx(36, rel=0.15)  # 4 features moved by 3
    assert good["recall"] > 0.8 > 0.6 > poor["recall"] and poor["precision"] >= good["precision"] - 0.05
    with pytest.raises(UsageError, match="real images of the class: "):
        target_of(_Identity(), draw(3), 200, "real images of the class")


def test_few_samples_are_scored_by_the_kernel_distance() -> None:
    generator = torch.Generator().manual_seed(4)
    real, same = (torch.randn(40, 64, generator=generator).double() for _ in range(2))
    with pytest.raises(UsageError, match=r"at least 65 images on each side, got 20; .*, or use --metric kernel"):
        target_of(_Identity(), real, 20, "pictures")
    target = target_of(_Identity(), real, 20, "pictures", KernelSetDistance())
    scored = scores(same[:20], target)
    assert scored["kernel"] == kernel_distance(same[:20], real).value and "frechet" not in scored
    assert abs(scored["kernel"]) < 4 * scored["kernel_standard_error"]
    row = {"trained_on": "t", "asked_for": "a", "class_share": None, "class": scored, "all": scored}
    assert row_texts(row, target.distance)[4].startswith(f"{scored['kernel']:.3g} ± ")


class _Identity:
    """Features that are given already."""

    def features(self, images: Tensor) -> Tensor:
        return images


def test_the_class_share_is_that_of_the_class_of_the_real_images() -> None:
    extractor = _Classifier()
    assert class_share(extractor, torch.tensor([2, 2, 0, 1]), torch.tensor([2, 2, 1])) == 0.5  # type: ignore[arg-type]
    strewn = torch.tensor([0, 0, 1, 2, 2])  # no class of the classifier's own has half of them
    assert class_share(extractor, torch.tensor([0, 0, 0]), strewn) is None  # type: ignore[arg-type]
    assert class_share(load_features("pixels"), noise_images(2, 1), noise_images(2, 2)) is None


class _Classifier:
    """Images that are their own class of three."""

    def classify(self, images: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(images, 3).double()


def test_the_table_has_a_row_a_set_and_reports_what_broke() -> None:
    part = {"frechet": 1.0, "frechet_standard_error": 0.1, "precision": 0.5, "recall": 0.25}
    row = {"trained_on": "one class", "asked_for": "anything", "class_images": 100.0, "class_share": 0.75}
    broken = {**row, "failed": "failed: loss is not finite"}
    entry = {
        "data": "d",
        "class": "3",
        "images": 100,
        "recipe": "r",
        "seed": 0,
        "samples": 9,
        "features": "f",
        "metric": "frechet",
    }
    text = markdown(
        [{**row, "class": part, "all": part}, broken], {**entry, "references_class": 9, "references_all": 9}
    )
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 4
    assert "75.0%" in lines[2] and "1 ± 0.1" in lines[2] and "loss is not finite" in lines[3]
