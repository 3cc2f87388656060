"""LPIPS against its definition, a second implementation, and what a distance must do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.metrics.alexnet import CHANNELS, AlexNetMaps
from undiffuse.metrics.perceptual import Lpips, load_lpips, to_input
from undiffuse.metrics.weight_files import WEIGHT_FILES, find_weights


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    """Random weights: the formula does not care."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Lpips(AlexNetMaps(), [torch.rand(count) for count in CHANNELS], {})


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Lpips:
    return load_lpips(shared_data / "weights" / "lpips-alex")


def random_images(num: int, size: int = 64, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, channels, size, size), generator=generator, dtype=torch.uint8)


def noisy(images: Tensor, std: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(9))
    return (images + std * noise).round().clamp(0, 255).byte()


def test_matches_the_definition(lpips: Lpips) -> None:
    """sum_l mean_hw sum_c w (f/|f| - g/|g|)^2 written out in float64, layer by layer."""
    a, b = random_images(2, seed=1), random_images(2, seed=2)
    expected = torch.zeros(2, dtype=torch.float64)
    maps = [lpips.network(to_input(images)) for images in (a, b)]
    for one, other, root in zip(*maps, lpips.roots, strict=True):
        unit = [x.double() / x.double().norm(dim=1, keepdim=True) for x in (one, other)]
        expected += ((unit[0] - unit[1]).square() * root.double().square()).sum(1).mean((1, 2))
    torch.testing.assert_close(lpips.distance(a, b), expected, rtol=1e-5, atol=1e-7)


def test_matches_torchmetrics(lpips: Lpips, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights in torchmetrics' network, whose AlexNet would otherwise come from torchvision."""
    reference = pytest.importorskip("torchmetrics.functional.image.lpips")

    def features(net: str, pretrained: bool = False) -> nn.Sequential:
        first, *others = lpips.network.convolutions
        pool, relu = nn.MaxPool2d(3, 2), nn.ReLU()
        return nn.Sequential(
            *(first, relu, pool, others[0], relu, pool, others[1], relu, others[2], relu, others[3], relu, pool)
        )

    monkeypatch.setattr(reference, "_get_tv_model_features", features)
    theirs = reference._LPIPS(pretrained=False, net="alex", pnet_rand=True, use_dropout=False)
    for linear, root in zip(theirs.lins, lpips.roots, strict=True):
        linear.model[0].weight.data = root.square()[None]
    a, b = random_images(3, seed=3), random_images(3, seed=4)
    with torch.no_grad():
        expected = theirs(*(images.float() / 127.5 - 1 for images in (a, b))).flatten().double()
    torch.testing.assert_close(lpips.distance(a, b), expected, rtol=1e-4, atol=1e-6)


def test_colours_are_standardised_as_version_0_1_does() -> None:
    """Written out in the numbers of ImageNet's means: (x/255 - mean)/std up to the rounding of the published layer."""
    images = random_images(1)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(to_input(images), (images / 255 - mean) / std, rtol=0, atol=5e-3)


def test_the_embedding_is_the_distance(lpips: Lpips) -> None:
    a, b = random_images(3, seed=1), random_images(4, seed=2)
    embedded = [lpips.features(images).double() for images in (a, b)]
    pairs = (embedded[0][:, None] - embedded[1][None]).square().sum(-1)
    assert embedded[0].shape == (3, 31_872)
    torch.testing.assert_close(lpips.distances(a, b), pairs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lpips.distance(a, b[:3]), pairs.diagonal(), rtol=0, atol=1e-12)


def test_is_a_distance_of_each_image_by_itself(lpips: Lpips) -> None:
    a, b = random_images(35, seed=1), random_images(35, seed=2)
    together = lpips.distance(a, b)
    assert torch.equal(lpips.distance(a, a), torch.zeros(35, dtype=torch.float64))
    assert torch.equal(lpips.distance(b, a), together)
    assert torch.equal(torch.cat([lpips.distance(a[:1], b[:1]), lpips.distance(a[1:], b[1:])]), together)
    assert lpips.distance(a[:0], b[:0]).shape == (0,)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (63, 3)])
def test_small_images_are_enlarged(lpips: Lpips, size: int, channels: int) -> None:
    a, b = random_images(2, size, channels, seed=1), random_images(2, size, channels, seed=2)
    assert lpips.features(a).shape == (2, 31_872)
    assert bool((lpips.distance(a, b) > 0).all())
    assert torch.equal(lpips.distance(a, a), torch.zeros(2, dtype=torch.float64))


def test_larger_images_are_left_alone_and_shapes_kept() -> None:
    assert to_input(random_images(1, 80)).shape[-2:] == (80, 80)
    assert to_input(random_images(1, 64)[:, :, :, :40]).shape[-2:] == (102, 64)


def test_grey_is_colour_of_equal_channels(lpips: Lpips) -> None:
    a, b = random_images(2, 32, 1, seed=1), random_images(2, 32, 1, seed=2)
    assert torch.equal(lpips.distance(a, b), lpips.distance(a.repeat(1, 3, 1, 1), b))


def test_nearest_is_that_of_all_pairs(lpips: Lpips) -> None:
    references, queries = random_images(40, 28, 1, seed=1), random_images(7, 28, 1, seed=2)
    queries[3] = references[25]
    calls: list[tuple[int, int]] = []
    found = lpips.nearest(
        queries, references, k=3, chunk=6, on_progress=lambda done, total: calls.append((done, total))
    )
    exact = torch.stack([lpips.distance(query.expand(40, -1, -1, -1), references) for query in queries])
    expected = exact.sort(dim=1, stable=True)
    assert torch.equal(found.indices, expected.indices[:, :3])
    torch.testing.assert_close(found.distances, expected.values[:, :3], rtol=0, atol=1e-12)
    assert found.indices[3, 0] == 25 and found.distances[3, 0] == 0
    assert calls[-1] == (280, 280) and [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert lpips.nearest(queries[:0], references, k=2).distances.shape == (0, 2)


def test_ties_come_in_the_order_of_the_references(lpips: Lpips) -> None:
    references = random_images(1, 16, 1).repeat(5, 1, 1, 1)
    found = lpips.nearest(references[:1], references, k=4, chunk=2)
    assert found.indices.tolist() == [[0, 1, 2, 3]] and found.distances.tolist() == [[0.0] * 4]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (random_images(2), random_images(2, 32), "must have images of one size, got 64x64 and 32x32"),
        (random_images(2), random_images(3), "got 2 and 3"),
        (random_images(2, channels=2), random_images(2), "1 or 3 channels, got 2"),
        (torch.full((1, 3, 64, 64), float("nan")), random_images(1), "hold NaN"),
        (torch.zeros(1, 3, 64, 64), random_images(1), "must be uint8"),
    ],
)
def test_bad_images_are_rejected(lpips: Lpips, a: Tensor, b: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        lpips.distance(a, b)


def test_too_few_references_are_rejected(lpips: Lpips) -> None:
    with pytest.raises(UsageError, match="1 <= k <= 2 references"):
        lpips.nearest(random_images(1), random_images(2), k=3)


def test_negative_heads_are_rejected() -> None:
    with pytest.raises(UsageError, match="none negative"):
        Lpips(AlexNetMaps(), [-torch.ones(count) for count in CHANNELS], {})


def test_missing_weights_report_where_they_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("UNDIFFUSE_WEIGHTS", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(UsageError) as caught:
        load_lpips()
    line = str(caught.value)
    order = ["download('alexnet')", "244 MB", "put alexnet-owt-7be5be79.pth", "lpips_alexnet.npz", f"into {tmp_path}"]
    places = [line.index(words) for words in order]  # what can be had comes first
    assert places == sorted(places) and "\n" not in line
    monkeypatch.setitem(WEIGHT_FILES, "lpips-heads", dataclasses.replace(WEIGHT_FILES["lpips-heads"], packages=()))
    with pytest.raises(UsageError, match=r"download\('lpips-heads'\).* for its linear heads; or put"):
        load_lpips()
    (tmp_path / "lpips_alexnet.npz").write_bytes(b"other bytes")
    with pytest.raises(UsageError, match="has SHA-256"):
        load_lpips()


def test_published_weights_rise_with_noise(published: Lpips, shared_data: Path) -> None:
    """Real flowers: 0 for the same, rising with noise, and another flower is farther than a little noise."""
    import zipfile

    import numpy as np
    from PIL import Image

    with zipfile.ZipFile(shared_data / "flowers" / "flower_photos_96_center_q92.zip") as flowers:
        names = sorted(name for name in flowers.namelist() if name.endswith(".jpg"))[::230]
        images = torch.stack([torch.from_numpy(np.array(Image.open(flowers.open(n)))).permute(2, 0, 1) for n in names])
    found = torch.stack([published.distance(images, noisy(images, std)) for std in (0, 4, 16, 64)])
    assert torch.equal(found[0], torch.zeros(len(images), dtype=torch.float64))
    assert bool((found.diff(dim=0) > 0).all())
    other = published.distance(images, images.roll(1, 0))
    assert bool((other > found[1]).all()) and 0.3 < float(other.mean()) < 1.0
    assert published.protocol()["weights_sha256"] == {"lpips_alexnet.npz": WEIGHT_FILES["lpips"].sha256}


def test_published_heads_are_those_of_the_lpips_package(published: Lpips) -> None:
    path = find_weights("lpips-heads")
    if path is None:
        pytest.skip("neither lpips nor torchmetrics is installed")
    heads = torch.load(path, map_location="cpu", weights_only=True)
    for index, root in enumerate(published.roots):
        expected = heads[f"lin{index}.model.1.weight"].flatten()
        torch.testing.assert_close(root.flatten().square(), expected, rtol=1e-5, atol=1e-9)


def test_torchvisions_layout_gives_the_same(published: Lpips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from undiffuse.files import sha256_of

    state = {}
    for place, convolution in zip((0, 3, 6, 8, 10), published.network.convolutions, strict=True):
        for kind, value in convolution.state_dict().items():
            state[f"features.{place}.{kind}"] = value
    path = tmp_path / WEIGHT_FILES["alexnet"].name
    torch.save(state, path)
    monkeypatch.setitem(WEIGHT_FILES, "alexnet", replace(WEIGHT_FILES["alexnet"], sha256=sha256_of(path)))
    if find_weights("lpips-heads") is None:
        pytest.skip("neither lpips nor torchmetrics is installed")
    found = load_lpips(tmp_path)
    a, b = random_images(2, seed=1), random_images(2, seed=2)
    torch.testing.assert_close(found.distance(a, b), published.distance(a, b), rtol=1e-6, atol=0)
    assert set(found.hashes) == {"alexnet-owt-7be5be79.pth", "alex.pth"}
    assert torch.equal(load_lpips(path).distance(a, b), found.distance(a, b))
