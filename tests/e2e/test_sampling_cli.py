"""``undiffuse sample``: image i depends on seed i alone, and what is written says how it was made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import CommandLine, child, no_leftovers
from PIL import Image

import undiffuse as package
from sparse_product import mostly_slow, sparse_product
from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.errors import UsageError
from undiffuse.models.request import SampleRequest
from undiffuse.recipes import get_recipe


def images(folder: Path) -> dict[str, bytes]:
    """Pixels by file name; the files also contain their records."""
    return {path.name: Image.open(path).tobytes() for path in sorted(folder.glob("0*.png"))}


@pytest.fixture
def blocks_of_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks for few images."""
    monkeypatch.setattr("undiffuse.models.denoising.fixed_batch_size", lambda *_: 8)


@pytest.mark.usefixtures("blocks_of_8")
@pytest.mark.parametrize(
    ("sampler", "kind"),
    [
        *sparse_product(["dpmpp_2m", "ancestral"], ["trained", "trained_bf16"]),
        *(pytest.param("heun", kind, marks=pytest.mark.slow) for kind in ("trained", "trained_bf16")),
    ],
)
def test_any_batch_size_gives_the_same_bytes(
    kind: str, sampler: str, undiffuse: CommandLine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)
    common = ("sample", model, "--steps", 3, "--sampler", sampler, "--seed", 7)
    undiffuse.fine(*common, "-n", 20, "--out", tmp_path / "all")
    expected = images(tmp_path / "all")
    assert len(set(expected.values())) == 20
    for size in (1, 3, 16, 64):
        undiffuse.fine(*common, "-n", 20, "--batch-size", size, "--out", tmp_path / str(size))
        assert images(tmp_path / str(size)) == expected, size
    undiffuse.fine(*common, "-n", 5, "--out", tmp_path / "five")
    assert images(tmp_path / "five") == dict(list(expected.items())[:5])


@pytest.mark.usefixtures("blocks_of_8")
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_no_bit_depends_on_the_batch_even_before_rounding(precision: str) -> None:
    torch.manual_seed(0)
    overrides = [f"system.precision={precision}", "system.network.channels=32"]
    config = apply_overrides(get_recipe("ddpm-digits"), overrides)
    system = config.system.build((1, 8, 8), [str(digit) for digit in range(10)]).model  # type: ignore[attr-defined]
    for parameter in system.parameters():  # a fresh network's last layer is zero
        torch.nn.init.normal_(parameter, std=0.1)
    whole = system.sample(SampleRequest.of(seeds=range(19), steps=3)).x
    for size in (1, 3, 7):
        assert torch.equal(system.sample(SampleRequest.of(seeds=range(19), steps=3, batch_size=size)).x, whole)


def test_a_later_seed_is_a_later_image(trained_bf16: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    undiffuse.fine("sample", trained_bf16, "-n", 4, "--steps", 2, "--out", tmp_path / "a")
    undiffuse.fine("sample", trained_bf16, "-n", 1, "--steps", 2, "--seed", 3, "--out", tmp_path / "b")
    assert images(tmp_path / "a")["000003.png"] == images(tmp_path / "b")["000000.png"]


def test_two_processes_make_the_same_bytes(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    arguments = ("sample", trained, "-n", 3, "--steps", 3, "--sampler", "ddim:eta=0.5", "--out")
    undiffuse.fine(*arguments, tmp_path / "here")
    process = child(tmp_path / "log", *arguments, tmp_path / "there")
    process.join(60)
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    assert images(tmp_path / "here") == images(tmp_path / "there")
    names = ("samples.json", "grid.png")
    assert all((tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes() for name in names)


def test_what_is_written(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    undiffuse.fine("sample", trained, "-n", 12, "--steps", 4, "--sampler", "heun", "--grid", "karras", "--out", out)
    assert sorted(path.name for path in out.iterdir()) == [*images(out), "grid.png", "samples.json"]
    record = json.loads((out / "samples.json").read_text())
    sha256 = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    shared = {"model_sha256": sha256, "sampler": "heun", "steps": 4, "grid": "karras", "recipe": "ddpm-digits"}
    assert shared.items() <= record.items()
    assert 4 <= record["nfe"] <= 8
    for index, row in enumerate(record["images"]):
        assert (row["file"], row["seed"], row["class"]) == (f"{index:06d}.png", index, str(index % 10))
        assert shared.items() <= row.items()
    with Image.open(out / "000000.png") as image:
        assert image.size == (8, 8) and image.mode == "L"


def test_defaults_are_recorded(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    undiffuse.fine("sample", trained, "-n", 1, "--out", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    defaults = json.loads((trained / "config.json").read_text())["config"]["system"]["sampling"]
    assert (record["sampler"], record["steps"], record["grid"]) == (
        defaults["sampler"],
        defaults["num_steps"],
        defaults["grid"],
    )


def test_the_default_folder_is_numbered(
    trained: Path, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        undiffuse.fine("sample", trained, "-n", 1, "--steps", 1)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["tiny-001", "tiny-002"]


def test_progressive(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    undiffuse.fine("sample", trained, "-n", 5, "--steps", 4, "--progressive", "--batch-size", 2, "--out", out)
    frames = np.load(out / "progressive.npz")["x_0"]
    assert frames.shape == (4, 5, 1, 8, 8) and frames.dtype == np.uint8
    assert (out / "progressive.png").is_file()
    last = np.stack([np.asarray(Image.open(path)) for path in sorted(out.glob("0*.png"))])
    assert np.array_equal(frames[-1][:, 0], last)
    plain = tmp_path / "plain"
    undiffuse.fine("sample", trained, "-n", 5, "--steps", 4, "--out", plain)
    assert images(plain) == images(out)


def test_classes(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    def sampled(name: str, *options: object) -> list[str | None]:
        undiffuse.fine("sample", trained, "-n", 3, "--steps", 2, "--out", tmp_path / name, *options)
        return [row["class"] for row in json.loads((tmp_path / name / "samples.json").read_text())["images"]]

    assert sampled("one", "--class", "7") == ["7", "7", "7"]
    assert sampled("two", "--class", "7", "--class", "1") == ["7", "1", "7"]
    assert sampled("none", "--no-class") == [None] * 3
    assert images(tmp_path / "one")["000000.png"] == images(tmp_path / "two")["000000.png"]
    model = package.load(trained)
    seven, one = (
        model.module.sample(SampleRequest.of(seeds=[1], steps=2, cond=model.condition([name]))).x for name in "71"
    )
    assert not torch.equal(seven, one)


def test_points(trained_points: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    undiffuse.fine("sample", trained_points, "-n", 30, "--steps", 5, "--progressive", "--out", out)
    points = np.load(out / "samples.npy")
    assert points.shape == (30, 2) and points.dtype == np.float32 and np.isfinite(points).all()
    assert (out / "grid.png").is_file() and (out / "progressive.png").is_file()
    rows = json.loads((out / "samples.json").read_text())["images"]
    assert [row["row"] for row in rows] == list(range(30))
    undiffuse.fine("sample", trained_points, "-n", 30, "--steps", 5, "--batch-size", 7, "--out", tmp_path / "again")
    assert (tmp_path / "again" / "samples.npy").read_bytes() == (out / "samples.npy").read_bytes()


def test_the_python_twin(trained: Path, trained_points: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    model = package.load(trained)
    images = model.sample(16, steps=20, seed=0)
    assert images.shape == (16, 1, 8, 8) and images.dtype == torch.uint8
    undiffuse.fine("sample", trained, "-n", 16, "--steps", 20, "--out", tmp_path / "out")
    written = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").glob("0*.png"))])
    assert np.array_equal(images[:, 0].numpy(), written)
    assert package.load(trained_points).sample(4, steps=2).shape == (4, 2)
    with pytest.raises(UsageError, match="at least 1"):
        model.sample(0)
    assert no_leftovers(tmp_path)


@pytest.fixture(scope="module")
def by_its_own(trained: Path) -> np.ndarray:
    """Four images under the model's own process, (4, 8, 8)."""
    drawn = package.load(trained).sample(4, sampler="dpmpp_2m", grid="log_snr", steps=40)
    return np.asarray(drawn, float)[:, 0]


@pytest.mark.usefixtures("blocks_of_8")
@pytest.mark.parametrize(
    "process",
    mostly_slow(
        ["ve:sigma_max=20,sigma_min=0.02", "vp", "flow", "sub_vp", "ncsn:num_steps=30", "edm"],
        "flow",
        "ncsn:num_steps=30",
    ),
)
def test_one_model_samples_under_every_process(
    process: str, trained: Path, by_its_own: np.ndarray, undiffuse: CommandLine, tmp_path: Path
) -> None:
    common = ("sample", trained, "-n", 4, "--sampler", "dpmpp_2m", "--grid", "log_snr", "--steps", 40)
    undiffuse.fine(*common, "--process", process, "--out", tmp_path / "other")
    other = np.stack([np.asarray(Image.open(path), float) for path in sorted((tmp_path / "other").glob("0*.png"))])
    own = by_its_own
    assert own.shape == other.shape
    # the same ODE from the same noise: what is left is the solvers' error and where each starts
    between = np.abs(own - own[::-1]).mean()
    assert np.abs(own - other).mean() < 0.25 * between
    record = json.loads((tmp_path / "other" / "samples.json").read_text())
    assert record["process"] == process


def test_a_prior_beyond_what_was_trained_is_reported(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    # DDPM's last log-SNR is -10.1
    common = ("sample", trained, "-n", 2, "--steps", 3, "--process")
    said = undiffuse.fine(*common, "ve:sigma_max=1e4", "--out", tmp_path / "a").err
    assert "ve:sigma_max=1e4 starts at log-SNR -18.42, but the model was trained down to" in said
    assert "starts at log-SNR" not in undiffuse.fine(*common, "ve:sigma_max=9", "--out", tmp_path / "b").err


def test_no_noise_to_begin_with_is_reported(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    common = (
        "sample",
        trained,
        "-n",
        2,
        "--steps",
        2,
        "--sampler",
        "ddim",
        "--class",
        3,
        "--temperature",
        0,
        "--no-record",
    )
    assert (
        "at temperature 0 all seeds start from the same latent" in undiffuse.fine(*common, "--out", tmp_path / "a").err
    )
    assert len(set(images(tmp_path / "a").values())) == 1
    one = (*common[:3], 1, *common[4:])
    assert "alike" not in undiffuse.fine(*one, "--out", tmp_path / "b").err


@pytest.mark.parametrize(
    ("process", "message"),
    [
        ("vee", "did you mean 've'"),
        ("ve:sigma=3", "no option 'sigma'"),
        ("ve:sigma_max=x", "must be a number, got 'x'"),
        ("ncsn:num_steps=2.5", "must be a whole number, got '2.5'"),
        ("ve:sigma_max=0.001", "0 < sigma_min < sigma_max"),
    ],
)
def test_a_senseless_process_is_rejected(
    process: str, message: str, trained: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    said = undiffuse.rejected("sample", trained, "-n", 1, "--process", process, "--out", tmp_path / "x")
    assert message in said
    assert not (tmp_path / "x").exists()
