"""Every recipe builds, survives JSON, trains a step at reduced size, and shows itself without writing anything."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import write_zip
from PIL import Image

from sparse_product import mostly_slow
from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.training import split_data
from undiffuse.cli.main import main
from undiffuse.config import validate
from undiffuse.data import source_config_for
from undiffuse.data.config import EmojiConfig, JoinConfig
from undiffuse.errors import UsageError
from undiffuse.models.fixed_batch import fixed_batch_size
from undiffuse.networks import build_network
from undiffuse.recipes import RECIPES, get_recipe
from undiffuse.training.config import RunConfig
from undiffuse.training.trainer import Trainer

SMALLER = ["num_images=16", "batch_images=8", "micro_batch_images=4", "validation_images=8", "preview_samples=2"]
SMALLER += ["preview_every_images=16"]
#: What more it takes to make a recipe of paper size small.
SMALLER_STILL = {
    "ddpmpp-cifar10": ["data.size=16", "system.network.num_blocks=1"],
    "edm-cifar10": ["data.size=16", "system.network.num_blocks=1"],
    "dit-cifar10": ["data.size=16", "system.network.num_heads=2"],
    "ncsnpp-ffhq256": ["data.size=48", "system.network.num_blocks=1"],
    "dcgan-bedroom64": ["data.size=48"],
    "ddpm-bedroom64": ["data.size=48", "system.network.attention_levels=[]"],
    "photos-64": ["data.size=48"],
}


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of MNIST-format files and one of images."""
    folder, rng = tmp_path_factory.mktemp("small"), np.random.default_rng(0)
    idx, images = folder / "idx", folder / "folder"
    idx.mkdir()
    images.mkdir()
    grey = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8)
    with gzip.open(idx / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">IIII", 0x803, *grey.shape) + grey.tobytes())
    with gzip.open(idx / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">II", 0x801, 60) + bytes(index % 10 for index in range(60)))
    for index, colours in enumerate(rng.integers(0, 256, (60, 48, 48, 3), dtype=np.uint8)):
        Image.fromarray(colours).save(images / f"{index:02d}.png")
    return {"idx": idx, "folder": images, "join": emoji_parts(folder / "join")}


def emoji_parts(folder: Path) -> Path:
    """The parts of the recipe ``text-emoji``, 20 images each, and their list of names."""
    data = get_recipe("text-emoji").data
    assert isinstance(data, JoinConfig) and data.names is not None
    folder.mkdir()
    for seed, archive in enumerate(data.parts.values()):
        levels = np.random.default_rng(seed).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
        write_zip(folder / archive, {f"1f6{number:02d}.png": as_png(image) for number, image in enumerate(levels)})
    entries = [{"hexcode": f"1F6{number:02d}", "label": f"face {number}", "tags": ["face"]} for number in range(20)]
    (folder / data.names).write_text(json.dumps(entries))
    return folder


def as_png(levels: np.ndarray) -> bytes:
    Image.fromarray(levels).save(content := io.BytesIO(), "png")
    return content.getvalue()


def narrow(recipe: RunConfig) -> list[str]:
    """Overrides for narrow networks and few sampling steps."""
    system = recipe.system.model_dump()
    parts = [part for part in ("network", "generator", "discriminator") if part in system]
    widths = {part: "width" if system[part]["name"] == "mlp" else "channels" for part in parts}
    steps = ["system.sampling.num_steps=2"] if "sampling" in system else []
    return [*(f"system.{part}.{width}=8" for part, width in widths.items()), *steps]


def reduced(name: str, small_data: dict[str, Path]) -> RunConfig:
    """The recipe with a narrow network, on a few images."""
    recipe = get_recipe(name)
    overrides = [*SMALLER, *narrow(recipe), *SMALLER_STILL.get(name, [])]
    source = small_data.get(recipe.data.name)
    data = source_config_for(f"{recipe.data.name}:{source}") if source is not None else None
    return apply_overrides(recipe, overrides, data)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = get_recipe(name)
    assert recipe.recipe == name
    again = validate(RunConfig, json.loads(json.dumps(recipe.model_dump(mode="json"))))
    assert again == recipe
    assert again.model_dump(mode="json") == recipe.model_dump(mode="json")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_frozen(name: str) -> None:
    with pytest.raises(ValueError, match="frozen"):
        get_recipe(name).num_images = 1


def rows_of_previews(network: torch.nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    """Blocks as large as what is shown: two images, or a cloud of points."""
    return 2 if len(shape) == 3 else fixed_batch_size(network, shape, device)


#: Of each objective, kind of process and network one that has nothing which another has not.
KINDS = ("photos-32", "ddpm-digits", "iddpm-mnist", "vesde-mnist", "edm-fashion", "ct-mnist", "flow-swissroll")
KINDS += ("ncsn-swissroll", "subvpsde-swissroll", "meanflow-mnist", "progressive-mnist", "wgan-gp-mnist")
KINDS += ("classifier-mnist", "classifier-rings")
KINDS += ("text-emoji",)
KINDS += ("r3gan-fashion", "unrolled-gan-rings", "dcgan-bedroom64", "ddpm-church48", "ddpmpp-cifar10", "dit-cifar10")


@pytest.mark.parametrize("name", mostly_slow(RECIPES, *KINDS))
def test_a_recipe_trains(
    name: str, small_data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("denoising", "gan"):
        monkeypatch.setattr(f"undiffuse.models.{kind}.fixed_batch_size", rows_of_previews)
    config = reduced(name, small_data)
    trainer = Trainer(config, *split_data(config), tmp_path)
    before = [value.detach().clone() for value in trainer.objective.model.parameters()]
    assert trainer.run()
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.objective.model.parameters(), strict=True))
    for name_of_file in ("config.json", "metrics.jsonl", "model.safetensors", "model_card.md"):
        assert (tmp_path / name_of_file).stat().st_size > 0
    previews = list((tmp_path / "previews").iterdir()) if trainer.objective.model.generates else [tmp_path]
    assert len(previews) == 1 and (tmp_path / "previews").exists() is trainer.objective.model.generates


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_200_steps_by_its_own_command(name: str, small_data: dict[str, Path], tmp_path: Path) -> None:
    """Narrow and in batches of two: what may break after the first step, such as a phase that comes late, is there."""
    recipe = get_recipe(name)
    data = small_data.get(recipe.data.name)
    source = ["--data", f"{recipe.data.name}:{data}"] if data is not None else []
    smaller = ["num_images=400", "batch_images=2", "micro_batch_images=2", "validation_images=4", "preview_samples=2"]
    overrides = [*smaller, *narrow(recipe), *SMALLER_STILL.get(name, [])]
    with pytest.raises(SystemExit) as stop:
        main(["train", name, *source, *overrides, "--out", str(tmp_path / "run")])
    assert not stop.value.code
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows if "step" in row) == 200


def test_the_cifar10_network_has_35_7_million_parameters() -> None:
    recipe = get_recipe("ddpm-cifar10")
    with torch.device("meta"):
        network = build_network(recipe.system.network, (3, 32, 32))  # type: ignore[attr-defined]
    assert sum(value.numel() for value in network.parameters()) == 35_746_307


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ddpmpp-cifar10", 61_804_419),
        ("edm-cifar10", 55_732_739),
        ("dit-cifar10", 32_471_436),
        ("ncsnpp-ffhq256", 65_574_421),
    ],
)
def test_recipes_of_paper_size_have_the_networks_they_name(name: str, count: int) -> None:
    """The counts are derived and compared with the papers in tests/parity."""
    recipe = get_recipe(name)
    size = recipe.data.size  # type: ignore[attr-defined]
    with torch.device("meta"):
        network = build_network(recipe.system.network, (3, size, size))  # type: ignore[attr-defined]
    assert sum(value.numel() for value in network.parameters()) == count


def test_the_diffusion_next_to_dcgan_has_as_many_parameters_and_the_same_data() -> None:
    gan, ddpm = get_recipe("dcgan-bedroom64"), get_recipe("ddpm-bedroom64")
    with torch.device("meta"):
        players = gan.system.build((3, 64, 64), ())  # type: ignore[attr-defined]
        network = build_network(ddpm.system.network, (3, 64, 64))  # type: ignore[attr-defined]
    counts = [sum(value.numel() for value in module.parameters()) for module in (players, network)]
    assert abs(counts[1] / counts[0] - 1) < 0.05
    assert (gan.data, gan.num_images, gan.batch_images) == (ddpm.data, ddpm.num_images, ddpm.batch_images)


def test_a_dry_run_reports_all_and_writes_nothing(
    small_data: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--data", str(small_data["folder"]), "system.network.channels=8", "batch_images=8", "--out", "run"]
    with pytest.raises(SystemExit) as stop:
        main(["train", "ddpm-cifar10", *options, "--dry-run"])
    assert not stop.value.code
    shown = capsys.readouterr().out
    for fact in ("parameters", "optimizer steps", "cost of 1,000 images", "whole run", '"ddpm-cifar10"'):
        assert fact in shown
    assert list(tmp_path.rglob("*")) == []


def test_an_unknown_recipe_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'flow-mnist'"):
        get_recipe("flow-mnst")


def test_a_component_is_chosen_by_its_name_alone() -> None:
    recipe = get_recipe("ddpm-digits")
    short = apply_overrides(recipe, ["system.process=ddpm_cosine", "system.process.num_steps=50"])
    long = apply_overrides(recipe, ["system.process.name=ddpm_cosine", "system.process.num_steps=50"])
    assert short == long != recipe
    same = apply_overrides(recipe, ["system.process=ddpm_linear"])
    assert same == recipe


def test_other_data_keeps_the_image_options(small_data: dict[str, Path]) -> None:
    recipe = get_recipe("ddpm-cifar10")
    config = apply_overrides(recipe, [], source_config_for(str(small_data["folder"])))
    assert config.data.size == 32 and config.data.channels == 3  # type: ignore[attr-defined]
    assert config.data.path == str(small_data["folder"])  # type: ignore[attr-defined]


def test_other_data_keep_what_the_recipe_reports_and_their_own_defaults() -> None:
    data = apply_overrides(get_recipe("ddpm-church48"), [], EmojiConfig(path="emoji.zip")).data
    assert (data.size, data.channels, data.validation_fraction) == (48, 3, 0.02)  # type: ignore[attr-defined]
    assert data.background == EmojiConfig(path="emoji.zip").background == 255  # type: ignore[attr-defined]
    small = apply_overrides(get_recipe("flow-mnist"), [], EmojiConfig(path="emoji.zip")).data
    assert small.background == 255  # type: ignore[attr-defined]
