"""One pass over a set of images: parts in any order equal it, it survives a file, and what it holds is right."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics import (
    FeatureExtractor,
    GroupedStatistics,
    ImageSetStatistics,
    frechet_estimate,
    load_features,
    summary,
)
from undiffuse.metrics.colour import ColourAccumulator
from undiffuse.metrics.statistics import group_of

NUMBERS = torch.arange(230)


def random_images(num: int = 230, size: int = 6, channels: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, channels, size, size), generator=generator, dtype=torch.uint8)


class Thirds(FeatureExtractor):
    """Means and mean squares of the pixels, and three classes made of them."""

    name, dim, num_classes = "thirds", 2, 3

    def __init__(self) -> None:
        self.calls = 0

    def features(self, images: Tensor) -> Tensor:
        self.calls += 1
        values = images.flatten(1).double() / 255
        return torch.stack([values.mean(1), values.square().mean(1)], 1).float()

    def classify(self, images: Tensor) -> Tensor:
        raise AssertionError("features were to be computed once")

    def features_and_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        logits = 40 * (features.double()[:, :1] - torch.tensor([0.45, 0.5, 0.55])).abs()
        return features, torch.softmax(-logits, 1)


def summarised(extractor: FeatureExtractor, images: Tensor, numbers: Tensor, batch: int = 50) -> ImageSetStatistics:
    created = ImageSetStatistics(extractor)
    for part in torch.arange(len(images)).split(batch):
        created.update(images[part], numbers[part])
    return created


def assert_same(a: ImageSetStatistics, b: ImageSetStatistics) -> None:
    mine, theirs = a.tensors(), b.tensors()
    assert set(mine) == set(theirs)
    for name, value in mine.items():
        if name.startswith(("statistics.", "score.")) and value.is_floating_point():
            torch.testing.assert_close(value, theirs[name], rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("capacity", [10_000, 60])
def test_seven_uneven_shards_in_any_order_equal_one_pass(capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "FEATURE_CAPACITY", capacity)
    monkeypatch.setattr(summary, "PIXEL_CAPACITY", capacity // 2)
    images, extractor = random_images(channels=3), Thirds()
    whole = summarised(extractor, images, NUMBERS, batch=230)
    order = torch.randperm(230, generator=torch.Generator().manual_seed(3))
    parts = [summarised(extractor, images[p], NUMBERS[p], 7) for p in order.split([1, 2, 3, 17, 60, 0, 147])]
    merged = ImageSetStatistics(extractor)
    for index in (4, 0, 6, 2, 5, 1, 3):
        merged = parts[index].merge(merged)
    assert merged.count == 230 and len(merged.features) == min(230, capacity)
    assert_same(merged, whole)
    total, expected = merged.statistics.total, whole.statistics.total
    torch.testing.assert_close(total.mean, expected.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(total.covariance, expected.covariance, rtol=1e-12, atol=1e-12)
    assert merged.classes is not None and whole.classes is not None
    assert merged.classes.to_dict() == whole.classes.to_dict()
    assert parts[6].count == 147, "an operand changed"


def test_groups_go_by_number_not_by_arrival() -> None:
    rows = torch.randn(90, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_arrival, shuffled = GroupedStatistics.of(rows), GroupedStatistics(3)
    for part in torch.randperm(90, generator=torch.Generator().manual_seed(1)).split(8):
        shuffled.update(rows[part], part)
    for mine, theirs in zip(shuffled.groups, by_arrival.groups, strict=True):
        assert mine.count == theirs.count
        torch.testing.assert_close(mine.covariance, theirs.covariance, rtol=1e-12, atol=1e-12)
    largest = 2**63 - 1
    assert group_of(torch.tensor([largest]), 10).tolist() == [(largest + largest // 10) % 10]
    with pytest.raises(UsageError, match="numbers must be int64, one per row"):
        shuffled.update(rows, torch.arange(89))


def test_numbers_that_leave_groups_empty_are_rejected_by_the_jackknife() -> None:
    rows = torch.randn(90, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sparse = GroupedStatistics(3)
    sparse.update(rows, 100 * torch.arange(90))
    with pytest.raises(UsageError, match="number the images one after another"):
        frechet_estimate(GroupedStatistics.of(rows), sparse)


def test_its_parts_are_what_they_report() -> None:
    images, extractor = random_images(), Thirds()
    created = summarised(extractor, images, NUMBERS)
    assert extractor.calls == 5
    features, probabilities = extractor.features_and_probabilities(images)
    torch.testing.assert_close(
        created.statistics.total.covariance, torch.cov(features.double().T), rtol=1e-10, atol=1e-12
    )
    assert torch.equal(created.features.rows, features) and torch.equal(created.pixels.rows, images)
    assert created.shape == (1, 6, 6) and created.classes is not None and created.score is not None
    assert created.classes.histogram == torch.bincount(probabilities.argmax(1), minlength=3).tolist()
    assert created.score.count == 230
    assert created.colour.contrast == pytest.approx(float(images.double().std(unbiased=False)), rel=1e-12)


def test_features_without_classes() -> None:
    created = summarised(load_features("pixels"), random_images(), NUMBERS)
    assert created.classes is None and created.score is None and created.statistics.dim == 36
    assert ImageSetStatistics.from_tensors(created.extractor, created.tensors()).classes is None


def test_the_handwriting_classifier_gives_classes_and_a_score() -> None:
    created = summarised(load_features("handwriting"), random_images(30), NUMBERS[:30])
    assert created.classes is not None and created.classes.count == 30 and len(created.classes.histogram) == 10
    assert created.score is not None and 1 <= created.score.score <= 10


def test_round_trip_through_a_file_is_exact(tmp_path: Path) -> None:
    created = summarised(Thirds(), random_images(channels=3), NUMBERS)
    save_file(created.tensors(), tmp_path / "summary.safetensors")
    back = ImageSetStatistics.from_tensors(created.extractor, load_file(tmp_path / "summary.safetensors"))
    mine, theirs = created.tensors(), back.tensors()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    back.update(random_images(5, channels=3, seed=9), 1000 + torch.arange(5))
    assert (back.count, created.count) == (235, 230)


def test_an_empty_summary_is_neutral(tmp_path: Path) -> None:
    created, empty = summarised(Thirds(), random_images(), NUMBERS), ImageSetStatistics(Thirds())
    assert empty.count == 0 and ImageSetStatistics.from_tensors(Thirds(), empty.tensors()).count == 0
    for merged in (created.merge(empty), empty.merge(created)):
        assert_same(merged, created)
        merged.update(random_images(1, seed=4), torch.tensor([999]))
        assert created.count == 230
    only_a_shape = ImageSetStatistics(Thirds())
    only_a_shape.update(random_images(0), NUMBERS[:0])
    save_file(only_a_shape.tensors(), tmp_path / "none.safetensors")
    assert ImageSetStatistics.from_tensors(Thirds(), load_file(tmp_path / "none.safetensors")).shape == (1, 6, 6)
    with pytest.raises(UsageError, match="has no images"):
        _ = empty.statistics


def test_memory_is_bounded_by_the_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "FEATURE_CAPACITY", 40)
    monkeypatch.setattr(summary, "PIXEL_BYTES", 36 * 25 + 35)

    def size(num: int) -> int:
        held = summarised(Thirds(), random_images(num), torch.arange(num)).tensors().values()
        return sum(value.numel() * value.element_size() for value in held)

    assert size(200) == size(400)
    created = summarised(Thirds(), random_images(200), torch.arange(200))
    assert (len(created.features), len(created.pixels), created.features.seen) == (40, 25, 200)


def test_big_images_fit_into_128_mib() -> None:
    created = ImageSetStatistics(Thirds())
    created.update(random_images(1, size=512, channels=3), torch.tensor([0]))
    assert created.pixels.capacity == (128 << 20) // (3 * 512 * 512) == 170


class Broken(Thirds):
    """Gives NaN for black images."""

    def features(self, images: Tensor) -> Tensor:
        features = super().features(images)
        return torch.where(features[:, :1] == 0, math.nan, features)


def test_what_is_rejected_changes_nothing() -> None:
    created = summarised(Broken(), random_images(), NUMBERS)
    before = {name: value.clone() for name, value in created.tensors().items()}
    fresh = 500 + torch.arange(2)
    for images, numbers, message in [
        (torch.zeros(2, 1, 6, 6, dtype=torch.uint8), fresh, "2 of 2 feature rows hold NaN"),
        (random_images(2, channels=3), fresh, r"one size and number of channels: \(1, 6, 6\) .* now \(3, 6, 6\)"),
        (random_images(2, size=7), fresh, r"now \(1, 7, 7\)"),
        (random_images(2).float(), fresh, "must be uint8"),
        (random_images(2), torch.tensor([500, 500]), "unique in a set, got 500 twice"),
        (random_images(2), torch.tensor([500, 7]), "unique in a set, got 7 twice"),
        (random_images(2), fresh[:1], "one per row"),
    ]:
        with pytest.raises(UsageError, match=message):
            created.update(images, numbers)
    after = created.tensors()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_summaries_that_do_not_belong_together_are_rejected() -> None:
    created = summarised(Thirds(), random_images(), NUMBERS)
    with pytest.raises(UsageError, match="features 'thirds' and 'pixels'"):
        created.merge(summarised(load_features("pixels"), random_images(), NUMBERS + 230))
    with pytest.raises(UsageError, match=r"now \(1, 5, 5\)"):
        created.merge(summarised(Thirds(), random_images(size=5), NUMBERS + 230))
    with pytest.raises(UsageError, match="unique in a set"):
        created.merge(summarised(Thirds(), random_images(), NUMBERS))
    with pytest.raises(UsageError, match="holds 2 features, but 'handwriting' has 96"):
        ImageSetStatistics.from_tensors(load_features("handwriting"), created.tensors())
    with pytest.raises(UsageError, match="not a summary of a set"):
        ImageSetStatistics.from_tensors(Thirds(), {"shape": torch.tensor([1, 2, 3])})
    with pytest.raises(UsageError, match="covariance of 12288 features is too large"):
        ImageSetStatistics(load_features("pixels")).update(random_images(1, size=64, channels=3), torch.tensor([0]))


# --- levels ----------------------------------------------------------------------------------------------------


def test_levels_against_torch() -> None:
    images = random_images(40, channels=3, seed=5)
    images[:, 1] //= 3
    accumulator = ColourAccumulator(3)
    for part in images.split(7):
        accumulator.update(part)
    values = images.double().transpose(0, 1).flatten(1)
    assert accumulator.mean == pytest.approx(values.mean(1).tolist(), rel=1e-13)
    assert accumulator.contrast_by_channel == pytest.approx(values.std(1, unbiased=False).tolist(), rel=1e-13)
    assert accumulator.contrast == pytest.approx(float(values.std(unbiased=False)), rel=1e-13)
    assert accumulator.share_at_0 == float((values == 0).double().mean())
    assert accumulator.share_at_255 == pytest.approx(float((values == 255).double().mean()), rel=1e-15)
    assert accumulator.to_dict()["mean"] == accumulator.mean


def test_flat_grey_has_no_contrast_and_noise_of_two_levels_has_the_binomial() -> None:
    flat, two = ColourAccumulator(1), ColourAccumulator(1)
    flat.update(torch.full((3, 1, 5, 5), 77, dtype=torch.uint8))
    two.update(torch.tensor([0, 0, 0, 255], dtype=torch.uint8).reshape(1, 1, 2, 2))
    assert (flat.mean, flat.contrast, flat.share_at_0) == ([77.0], 0.0, 0.0)
    assert two.contrast == pytest.approx(255 * math.sqrt(3) / 4) and two.share_at_0 == 0.75
    assert flat.merge(two).histogram.sum() == 79
    with pytest.raises(UsageError, match="1 and 3 channels"):
        flat.merge(ColourAccumulator(3))
    with pytest.raises(UsageError, match="at least 1 image"):
        _ = ColourAccumulator(2).share_at_0
