"""Modes: closed forms on exact mixtures, a generator that has collapsed, and real data that never says so."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from undiffuse.data import GaussianRingConfig, GaussiansConfig, RingsConfig, SwissrollConfig, load_dataset
from undiffuse.data.config import DigitsConfig, IdxConfig, StackedMnistConfig
from undiffuse.data.sources.modes import known_modes
from undiffuse.diagnostics.modes import assess_modes
from undiffuse.errors import UsageError
from undiffuse.evaluation.modes import check_known
from undiffuse.metrics import load_features
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.modes import (
    ModeAssignments,
    Modes,
    assign_images,
    assign_points,
    equal_shares,
    good_of_gaussian,
    kl_of,
    measure_modes,
    product_shares,
    smoothed,
)

POINTS = (GaussiansConfig(num_points=20_000), GaussianRingConfig(num_points=20_000), RingsConfig(num_points=20_000))


def count_noun(counts: list[int], shares: Tensor | None = None, good_of_real: float = 1.0) -> Modes:
    """Of samples that are all of some mode."""
    tally = torch.tensor(counts)
    located = ModeAssignments(tally, tally, int(tally.sum()), good_of_real, good_of_real)
    return measure_modes(located, equal_shares(len(counts)) if shares is None else shares)


@pytest.mark.parametrize("config", POINTS, ids=lambda config: config.name)
def test_points_are_of_the_mode_that_their_label_reports(config: GaussiansConfig) -> None:
    modes, dataset = known_modes(config), load_dataset(config)
    assert modes is not None and modes.num == dataset.num_classes
    distances = torch.from_numpy(modes.distances(dataset.fetch(range(len(dataset))).items.numpy()))
    assert torch.equal(distances.argmin(1), torch.from_numpy(dataset.labels))
    own = distances.min(1).values
    dimensions = 1 if config.name == "rings" else 2
    share = float((own <= 3).double().mean())
    expected = good_of_gaussian(dimensions)
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / len(dataset))


def test_the_share_of_good_points_is_that_of_a_gaussian() -> None:
    z = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert good_of_gaussian(2) == pytest.approx(float((z.norm(dim=1) <= 3).double().mean()), abs=6e-4)
    assert good_of_gaussian(1) == pytest.approx(float((z[:, 0].abs() <= 3).double().mean()), abs=4e-4)


def test_three_standard_deviations_are_good_and_a_hair_more_is_not() -> None:
    distances = torch.tensor([[3.0, 9.0], [3.0001, 9.0], [50.0, 40.0], [0.0, 5.0]])
    located = assign_points(distances, 0.99)
    assert located.good == 2 and located.valid.tolist() == [2, 0] and located.counts.tolist() == [3, 1]
    found = measure_modes(located, equal_shares(2))
    assert (found.found, found.missing, found.good_share) == (1, [1], 0.5)
    assert found.good_share_error == pytest.approx(0.25)


def test_kl_of_a_part_of_the_modes_is_the_logarithm_of_the_rest() -> None:
    assert count_noun([100, 100, 0, 0]).kl == pytest.approx(math.log(2))
    assert count_noun([7, 0, 0, 0, 0]).kl == pytest.approx(math.log(5))
    assert count_noun([50, 50]).kl == pytest.approx(0, abs=1e-15)
    shares = torch.tensor([0.75, 0.25], dtype=torch.float64)
    assert count_noun([75, 25], shares).kl == pytest.approx(0, abs=1e-15)
    assert count_noun([50, 50], shares).kl == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert float(kl_of(torch.tensor([0, 9]), shares)) == pytest.approx(math.log(4))


def test_errors_are_those_of_drawing_again() -> None:
    """The spread over 2,000 sets drawn from the shares that a set has itself."""
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    draws = np.random.default_rng(0).multinomial(400, p.numpy(), size=2000)
    kls = kl_of(torch.from_numpy(draws), equal_shares(4))
    assert count_noun((400 * p).long().tolist()).kl_error == pytest.approx(float(kls.std()), rel=0.1)
    evenly = np.random.default_rng(1).multinomial(400, equal_shares(4).numpy(), size=2000)
    assert count_noun([100] * 4).kl_error == pytest.approx(
        float(kl_of(torch.from_numpy(evenly), equal_shares(4)).std()), rel=0.1
    )
    assert count_noun([5, 1, 1, 0]).found_error == pytest.approx(math.sqrt(6 / 7 * 2 * (1 - 2 / 7)))
    assert count_noun([5, 2, 2, 0]).found_error == 0


@pytest.mark.parametrize(("num", "modes"), [(10, 25), (300, 25), (500, 1000)])
def test_what_real_data_of_the_same_size_shows_is_the_coupon_collectors(num: int, modes: int) -> None:
    found = count_noun([num] + [0] * (modes - 1))
    assert found.real_found == pytest.approx(modes * (1 - (1 - 1 / modes) ** num), rel=0.01)
    tally = torch.tensor([num] + [0] * (modes - 1))
    thinned = measure_modes(ModeAssignments(tally, torch.zeros(modes), 0, 0.5, 0.5), equal_shares(modes))
    assert thinned.real_found == pytest.approx(modes * (1 - (1 - 0.5 / modes) ** num), rel=0.015)


@pytest.mark.parametrize(
    ("num", "modes"),
    [(1, 10), (3, 10), (20, 10), (1000, 10), (64, 1000), pytest.param(1000, 1000, marks=pytest.mark.slow)],
)
def test_real_data_is_never_called_collapsed(num: int, modes: int) -> None:
    for counts in np.random.default_rng(5).multinomial(num, equal_shares(modes).numpy(), size=25):
        assert not count_noun(counts.tolist()).collapsed


@pytest.mark.parametrize("config", POINTS, ids=lambda config: config.name)
@pytest.mark.parametrize("num", [50, 2000])
def test_points_of_the_data_itself_find_all_its_modes(config: GaussiansConfig, num: int) -> None:
    modes = known_modes(config)
    assert modes is not None
    distances = torch.from_numpy(modes.distances(load_dataset(config).fetch(range(num)).items.numpy()))
    found = measure_modes(assign_points(distances, good_of_gaussian(2)), equal_shares(modes.num))
    assert not found.collapsed and found.found >= 0.75 * modes.num and found.good_share > 0.9
    assert assess_modes(found).severity == "ok"


def test_a_collapsed_generator_is_found_out_by_either_sign() -> None:
    few = count_noun([250] * 12 + [0] * 13)
    assert few.collapsed and few.found == 12 and few.summary.startswith("collapsed: 12 of 25 modes")
    uneven = count_noun([980] + [1] * 9)  # all ten are there, nine by a hair
    assert uneven.found == 10 and uneven.collapsed
    assert not count_noun([125] * 20 + [0] * 5).collapsed
    finding = assess_modes(few)
    assert finding.severity == "problem" and "collapsed" in finding.title and finding.details["collapsed"] is True


def test_noise_is_not_called_collapsed_but_is_of_no_mode() -> None:
    located = ModeAssignments(torch.full((8,), 100), torch.full((8,), 1), 8, 0.99, 0.99)
    assert assess_modes(measure_modes(located, equal_shares(8))).severity == "warning"


def test_real_data_finds_modes_by_the_rule_of_the_samples() -> None:
    tally = torch.full((1000,), 1)
    of_all, of_good = (
        measure_modes(ModeAssignments(tally, tally, 500, 0.5, valid), equal_shares(1000)) for valid in (1.0, 0.5)
    )
    assert of_all.real_found == pytest.approx(1000 * (1 - 0.999**1000), abs=2)  # as images are counted
    assert of_good.real_found == pytest.approx(1000 * (1 - 0.9995**1000), abs=2)  # as points are


def test_a_class_that_the_data_hardly_has_is_no_mode() -> None:
    found = count_noun([600, 400, 0], smoothed(torch.tensor([500, 498, 2])))
    assert found.num_modes == 2 and found.missing == [] and not found.collapsed


class Named(FeatureExtractor):
    """Names an image by its first pixel, half of them without confidence."""

    name = "named"
    channels = 1
    num_classes = 10

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1).float()

    def classify(self, images: Tensor) -> Tensor:
        label, doubt = images[:, 0, 0, 0].long() % 10, images[:, 0, 0, 0] >= 100
        sure = torch.where(doubt, 0.55, 0.991)
        rest = ((1 - sure) / 9)[:, None].expand(-1, 10).clone()
        return rest.scatter(1, label[:, None], sure[:, None])


def test_a_stack_is_of_the_mode_of_its_three_channels() -> None:
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    images[:, :, 0, 0] = torch.tensor([[4, 0, 7], [4, 0, 107], [9, 9, 9]])
    located = assign_images(Named(), images)
    assert located.counts.nonzero()[:, 0].tolist() == [407, 999] and int(located.counts[407]) == 2
    assert located.good == 2 and len(located.counts) == 1000
    grey = assign_images(Named(), images[:, :1])
    assert grey.counts.tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0, 1] and grey.good == 3


def test_shares_of_stacks_are_products_of_those_of_their_digits() -> None:
    labels = torch.tensor([[0, 1, 0], [0, 0, 1]])
    shares = product_shares(labels, 2)
    one = torch.tensor([4.5, 2.5], dtype=torch.float64) / 7
    assert torch.allclose(shares, torch.einsum("a,b,c->abc", one, one, one).flatten()) and len(shares) == 8


def test_what_has_no_known_modes_is_rejected_in_a_line() -> None:
    with pytest.raises(UsageError, match="gaussian_ring, rings and stacked_mnist"):
        check_known(SwissrollConfig(), (2,), "")
    with pytest.raises(UsageError, match="noise=0"):
        check_known(GaussiansConfig(noise=0), (2,), "")
    with pytest.raises(UsageError, match=r"\(3, 28, 28\)"):
        check_known(IdxConfig(path="x"), (3, 28, 28), "")
    check_known(StackedMnistConfig(path="x"), (3, 28, 28), "")
    check_known(DigitsConfig(), (1, 8, 8), "")
    with pytest.raises(UsageError, match="at least 1 sample"):
        count_noun([0, 0])
    with pytest.raises(UsageError, match="positive shares"):
        count_noun([1, 1], torch.tensor([1.0, 0.0]))
    with pytest.raises(UsageError, match="pixels"):
        assign_images(load_features("pixels"), torch.zeros(1, 1, 4, 4, dtype=torch.uint8))


def test_weights_of_the_package_name_real_digits(tmp_path: Path) -> None:
    """The classifier finds the ten classes of the embedded scans about as often as they are there."""
    dataset = load_dataset(DigitsConfig())
    located = assign_images(load_features("handwriting"), dataset.fetch(range(0, 1797, 9)).items)
    found = measure_modes(located, equal_shares(10))
    assert found.found == 10 and found.kl < 0.1 and not found.collapsed
