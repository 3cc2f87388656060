"""Every row of FEATURES keeps the contract; the shipped weights are those the code names and can read."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from undiffuse import metrics
from undiffuse.errors import UsageError
from undiffuse.metrics import FEATURES, FeatureExtractor, load_features
from undiffuse.metrics.classifier import WEIGHTS, load_classifier

CLASSIFIERS = ("handwriting", "fashion")


@pytest.fixture(scope="module", params=sorted(FEATURES))
def extractor(request: pytest.FixtureRequest) -> FeatureExtractor:
    return load_features(request.param)


def pictures(num: int, size: int = 28, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(num + size)
    return torch.randint(0, 256, (num, channels, size, size), generator=generator, dtype=torch.uint8)


def test_names_and_protocol(extractor: FeatureExtractor) -> None:
    assert FEATURES[extractor.name].endswith(type(extractor).__name__)
    assert set(extractor.protocol()) == {"extractor", "weights_sha256", "dim", "resize"}


@pytest.mark.parametrize("size", [8, 17, 28, 40])
def test_shape_and_type(extractor: FeatureExtractor, size: int) -> None:
    features = extractor.features(pictures(3, size))
    assert features.shape == (3, extractor.dim or size * size)
    assert features.is_floating_point() and bool(torch.isfinite(features).all())


def test_pictures_need_not_be_square(extractor: FeatureExtractor) -> None:
    assert len(extractor.features(pictures(2)[:, :, :20])) == 2


def test_empty_batch(extractor: FeatureExtractor) -> None:
    features = extractor.features(pictures(0))
    assert features.shape == (0, extractor.dim or 784)


def test_a_picture_does_not_see_its_batch(extractor: FeatureExtractor) -> None:
    images = pictures(70, 12)
    together = extractor.features(images)
    alone = torch.cat([extractor.features(part) for part in images.split([1, 2, 67])])
    assert torch.equal(together, alone)
    assert torch.equal(extractor.features(images.flip(0)), together.flip(0))


def test_input_is_left_alone(extractor: FeatureExtractor) -> None:
    images = pictures(2)
    kept = images.clone()
    extractor.features(images)
    assert torch.equal(images, kept)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 8, 8), "must be uint8"),
        (torch.full((2, 1, 8, 8), float("nan")), "2 of 2 pictures hold NaN"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"\(B, C, H, W\), got shape \(8, 8\)"),
        (torch.zeros(2, 1, 0, 8, dtype=torch.uint8), "at least one pixel"),
    ],
)
def test_bad_pictures_are_refused(extractor: FeatureExtractor, images: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        extractor.features(images)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_colour_is_refused_by_the_classifiers(name: str) -> None:
    with pytest.raises(UsageError, match="must have 1 channel, got 3"):
        load_features(name).classify(pictures(2, channels=3))


def test_pixels_have_no_classes() -> None:
    with pytest.raises(UsageError, match="have no classes"):
        load_features("pixels").classify(pictures(1))


def test_unknown_features_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'handwriting'"):
        load_features("handwritting")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_shipped_weights(name: str) -> None:
    extractor = load_features(name)
    content = (WEIGHTS / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == extractor.weights_sha256
    assert len(content) < 1_000_000
    assert str(extractor.weights_sha256) in (WEIGHTS / "README.md").read_text()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_probabilities(name: str) -> None:
    extractor = load_features(name)
    probabilities = extractor.classify(pictures(5))
    assert probabilities.shape == (5, len(extractor.classes)) == (5, 10)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5).double())
    assert extractor.classify(pictures(0)).shape == (0, 10)


def test_handwriting_reads_the_scans_it_was_not_trained_on() -> None:
    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images[::5] * 255 / 16).astype(np.uint8))[:, None]
    probabilities = load_features("handwriting").classify(images)
    accuracy = (probabilities.argmax(1) == torch.from_numpy(bunch.target[::5])).double().mean()
    assert accuracy >= 0.98


def test_wrong_or_missing_weights_are_refused(tmp_path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(UsageError, match="cannot read the classifier's weights"):
        load_classifier(path, "0" * 64)
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match="has SHA-256"):
        load_classifier(path, "0" * 64)


def test_every_public_name_is_there() -> None:
    for name in metrics.__all__:
        assert getattr(metrics, name) is not None
    with pytest.raises(AttributeError):
        _ = metrics.no_such_name


def test_import_is_light() -> None:
    code = "import sys, undiffuse.metrics; print([m for m in ('torch', 'scipy', 'sklearn') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
