"""Every row of FEATURES keeps the contract; the shipped weights are those the code names and can read."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from undiffuse import metrics
from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.metrics import FEATURES, FeatureExtractor, inception, load_features
from undiffuse.metrics.classifier import WEIGHTS, load_classifier
from undiffuse.metrics.efficientnet import EfficientNetFeatures, EfficientNetLite0, SameConv, _names, folded
from undiffuse.metrics.features import pick_features
from undiffuse.metrics.inception import InceptionFeatures
from undiffuse.metrics.weight_files import WEIGHT_FILES, find_weights
from undiffuse.models.saved import Model

CLASSIFIERS = ("handwriting", "fashion")


class TinyInception(nn.Module):
    """The interface of the published file over six numbers per image, for it cannot be had everywhere."""

    def forward(self, images: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        means = images.float().mean((2, 3)).div(255)
        width = 2048 if return_features else 1008
        rows = torch.linspace(0, 4, width)[None] * means.sum(1, keepdim=True)
        return rows if return_features else torch.softmax(rows + (0.0 if no_output_bias else 1.0), 1)


def put_tiny_inception(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """The stand-in under the published name, and its hash in the place of the published one."""
    path = folder / WEIGHT_FILES["inception"].name
    torch.jit.script(TinyInception()).save(str(path))
    known = replace(WEIGHT_FILES["inception"], sha256=sha256_of(path), num_bytes=path.stat().st_size)
    patch.setitem(WEIGHT_FILES, "inception", known)
    return path


@pytest.fixture(scope="module", params=sorted(FEATURES))
def extractor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureExtractor]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "inception":
            folder = tmp_path_factory.mktemp("weights")
            put_tiny_inception(folder, patch)
            patch.setenv("UNDIFFUSE_WEIGHTS", str(folder))
        if request.param == "efficientnet" and find_weights("efficientnet") is None:
            weights = request.getfixturevalue("shared_data") / "weights" / "efficientnet-lite0"
            patch.setenv("UNDIFFUSE_WEIGHTS", str(weights))
        yield load_features(request.param)


def random_images(num: int, size: int = 28, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(num + size)
    return torch.randint(0, 256, (num, channels, size, size), generator=generator, dtype=torch.uint8)


def test_names_and_protocol(extractor: FeatureExtractor) -> None:
    assert FEATURES[extractor.name].endswith(type(extractor).__name__)
    assert set(extractor.protocol()) == {
        *("extractor", "weights_sha256", "dim", "resize", "colour"),
        *(["port"] if extractor.name == "inception" else []),
    }


def test_only_inception_may_be_called_fid(extractor: FeatureExtractor) -> None:
    names = [extractor.published_name(metric) for metric in ("frechet_distance", "kernel_distance", "inception_score")]
    own = ["frechet_distance", "kernel_distance", "inception_score"]
    assert names == (["FID", "KID", "IS"] if extractor.name == "inception" else own)


def test_both_at_once_are_both(extractor: FeatureExtractor) -> None:
    images = random_images(3)
    if extractor.num_classes is None:
        with pytest.raises(UsageError, match="have no classes"):
            extractor.features_and_probabilities(images)
        return
    features, probabilities = extractor.features_and_probabilities(images)
    assert torch.equal(features, extractor.features(images))
    assert torch.equal(probabilities, extractor.classify(images))
    assert probabilities.shape == (3, extractor.num_classes)
    torch.testing.assert_close(probabilities.sum(1).double(), torch.ones(3).double())


def test_grey_is_repeated_where_colour_is_read(extractor: FeatureExtractor) -> None:
    images = random_images(2)
    if "grey repeated" in extractor.colour:
        assert torch.equal(extractor.features(images), extractor.features(images.repeat(1, 3, 1, 1)))
        with pytest.raises(UsageError, match="1 or 3 channels, got 4"):
            extractor.features(images.repeat(1, 4, 1, 1))


@pytest.mark.parametrize("size", [8, 17, 28, 40])
def test_shape_and_type(extractor: FeatureExtractor, size: int) -> None:
    features = extractor.features(random_images(3, size))
    assert features.shape == (3, extractor.dim or size * size)
    assert features.is_floating_point() and bool(torch.isfinite(features).all())


def test_images_need_not_be_square(extractor: FeatureExtractor) -> None:
    assert len(extractor.features(random_images(2)[:, :, :20])) == 2


def test_empty_batch(extractor: FeatureExtractor) -> None:
    features = extractor.features(random_images(0))
    assert features.shape == (0, extractor.dim or 784)


def test_a_image_does_not_see_its_batch(extractor: FeatureExtractor) -> None:
    count = 10 if extractor.name == "efficientnet" else 70  # its blocks are smaller, and slower
    images = random_images(count, 12)
    together = extractor.features(images)
    alone = torch.cat([extractor.features(part) for part in images.split([1, count - 1])])
    assert torch.equal(together, alone)
    assert torch.equal(extractor.features(images.flip(0)), together.flip(0))


def test_input_is_left_alone(extractor: FeatureExtractor) -> None:
    images = random_images(2)
    kept = images.clone()
    extractor.features(images)
    assert torch.equal(images, kept)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(2, 1, 8, 8),
            r"must be uint8 in 0\.\.255, got torch.float32 from 0 to 0; make them x \* 255, rounded",
        ),
        (torch.full((2, 1, 8, 8), -1.0), r"from -1 to -1; make them \(x \+ 1\) \* 127\.5, rounded"),
        (torch.full((2, 1, 8, 8), float("nan")), "2 of 2 images hold NaN"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"\(B, C, H, W\), got shape \(8, 8\)"),
        (torch.zeros(2, 1, 0, 8, dtype=torch.uint8), "at least one pixel"),
    ],
)
def test_bad_images_are_rejected(extractor: FeatureExtractor, images: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        extractor.features(images)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_colour_is_rejected_by_the_classifiers(name: str) -> None:
    with pytest.raises(UsageError, match="must have 1 channel, got 3"):
        load_features(name).classify(random_images(2, channels=3))


def test_pixels_have_no_classes() -> None:
    with pytest.raises(UsageError, match="have no classes"):
        load_features("pixels").classify(random_images(1))


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
    probabilities = extractor.classify(random_images(5))
    assert probabilities.shape == (5, len(extractor.classes)) == (5, 10)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5).double())
    assert extractor.classify(random_images(0)).shape == (0, 10)


def test_handwriting_reads_the_scans_it_was_not_trained_on() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images[::5] * 255 / 16).astype(np.uint8))[:, None]
    probabilities = load_features("handwriting").classify(images)
    accuracy = (probabilities.argmax(1) == torch.from_numpy(bunch.target[::5])).double().mean()
    assert accuracy >= 0.98


def test_wrong_or_missing_weights_are_rejected(tmp_path) -> None:
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


def test_inception_of_another_hash_is_rejected_unloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.jit.script(TinyInception()).save(str(tmp_path / "inception-2015-12-05.pt"))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("loaded before its hash was right"))
    with pytest.raises(UsageError, match=r"has SHA-256 .* the published inception-2015-12-05.pt has f58cb9b6ec32"):
        InceptionFeatures(tmp_path)


def test_inception_that_is_missing_reports_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("UNDIFFUSE_WEIGHTS", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"inception-2015-12-05.pt are missing .*download\('inception'\).* put the "):
        load_features("inception")


def test_torch_fidelity_is_the_fallback_and_reports_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Extractor(nn.Module):
        def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str) -> None:
            super().__init__()
            assert Path(feature_extractor_weights_path).is_file()

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones(len(images), 2048), torch.zeros(len(images), 1008)

    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(inception, "find_spec", lambda name: object())
    for variable in ("UNDIFFUSE_WEIGHTS", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(UsageError, match="for the installed torch-fidelity"):
        load_features("inception")
    path = tmp_path / WEIGHT_FILES["torch-fidelity"].name
    path.write_bytes(b"weights")
    with pytest.raises(UsageError, match="has SHA-256"):
        load_features("inception")
    known = replace(WEIGHT_FILES["torch-fidelity"], sha256=sha256_of(path))
    monkeypatch.setitem(WEIGHT_FILES, "torch-fidelity", known)
    extractor = load_features("inception")
    assert extractor.protocol()["port"] == "torch-fidelity inception-v3-compat"
    assert extractor.weights_sha256 == known.sha256
    assert torch.equal(extractor.classify(random_images(2)), torch.full((2, 1008), 1 / 1008).double())


def test_padding_is_tensorflows() -> None:
    """SAME of an even side at stride 2 pads right and bottom alone: the first output reads the first pixels."""
    convolution = SameConv(1, 1, 3, 2, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.arange(9.0).view(1, 1, 3, 3))
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0, 0] = 1
    assert convolution(image).flatten().tolist() == [0, 0, 0, 0]
    image[0, 0, 1, 1] = 1
    assert convolution(image).flatten().tolist() == [4, 0, 0, 0]
    assert convolution(torch.zeros(1, 1, 5, 5)).shape == (1, 1, 3, 3)


def test_folding_the_batch_norm_changes_nothing() -> None:
    """One folded convolution against convolution, then batch norm as torch calculates it."""
    torch.manual_seed(0)
    state = published_state()
    folded_state = folded(state)
    image = torch.randn(2, 3, 8, 8)
    plain = nn.functional.conv2d(image, state["_conv_stem.weight"])
    statistics = [state[f"_bn0.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")]
    expected = nn.functional.batch_norm(plain, *statistics, eps=1e-3)
    found = nn.functional.conv2d(image, folded_state["stem.weight"], folded_state["stem.bias"])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    EfficientNetLite0().load_state_dict(folded_state)


def published_state() -> dict[str, Tensor]:
    """Random numbers under the published names and shapes."""
    ours = EfficientNetLite0().state_dict()
    state = {"_fc.weight": ours["classes.weight"], "_fc.bias": ours["classes.bias"]}
    for name, convolution, norm in _names():
        state[f"{convolution}.weight"] = ours[f"{name}.weight"]
        for kind in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{kind}"] = torch.rand(len(ours[f"{name}.weight"])) + 0.1
    return state


def test_efficientnet_knows_daisies(shared_data: Path) -> None:
    """ImageNet's class 985 is the daisy; 78% of the 633 photographs are given it, other flowers hardly ever."""
    extractor = EfficientNetFeatures(shared_data / "weights" / "efficientnet-lite0")
    with zipfile.ZipFile(shared_data / "flowers" / "flower_photos_96_center_q92.zip") as flowers:
        kinds = {
            kind: [name for name in flowers.namelist() if f"{kind}/" in name and name.endswith(".jpg")][:24]
            for kind in ("daisy", "roses")
        }
        daisies, roses = (
            torch.stack([torch.from_numpy(np.array(Image.open(flowers.open(name)))) for name in names])
            for names in kinds.values()
        )
    share = [
        float((extractor.classify(set_.permute(0, 3, 1, 2)).argmax(1) == 985).double().mean())
        for set_ in (daisies, roses)
    ]
    assert share[0] > 0.6 and share[1] < 0.1


@pytest.mark.parametrize(
    ("shape", "data", "class_names", "name"),
    [
        ((1, 28, 28), {"name": "idx", "path": "data/Fashion-MNIST", "size": None}, (), "fashion"),
        ((1, 28, 28), {"name": "folder", "path": "data/clothes"}, ("fashionable", "not"), "fashion"),
        ((1, 28, 28), {"name": "idx", "path": "data/mnist"}, ("0", "1"), "handwriting"),
        ((1, 64, 64), {"name": "idx", "path": "data/mnist"}, (), "pixels"),
        ((3, 28, 28), {"name": "fashion"}, (), "pixels"),
    ],
)
def test_features_that_fit_a_model_follow_from_what_it_reports_of_its_data(
    shape: tuple[int, ...], data: dict[str, object], class_names: tuple[str, ...], name: str
) -> None:
    record = {"config": {"data": data}, "model": {"class_names": class_names}}
    model = Model(nn.Identity(), record, Path("none"), "")  # type: ignore[arg-type]
    assert pick_features("auto", shape, model.origin).name == name
    assert pick_features("pixels", shape, model.origin).name == "pixels"
