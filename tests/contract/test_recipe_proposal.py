"""Data and hardware to a recipe: the choice as a pure function, and what is found out about data for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.recipe_choice import apply_proposal, data_facts
from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import check_folder, split_data
from undiffuse.cli.main import main
from undiffuse.cli.terminal import Terminal
from undiffuse.data import source_config_for
from undiffuse.errors import UsageError
from undiffuse.observer import observing
from undiffuse.recipes import RECIPES, get_recipe
from undiffuse.recipes.pace import estimate_duration
from undiffuse.recipes.proposal import IMAGES_PER_HOUR, DataSummary, Hardware, propose
from undiffuse.training.trainer import Trainer


@pytest.fixture(autouse=True)
def _shown() -> Iterator[None]:
    with observing(Terminal()):
        yield


LAPTOP, ONE_CORE, GPU = Hardware(cores=2), Hardware(cores=1), Hardware(cores=16, gpu=True)
FLOWERS = DataSummary("zip", side=96, smallest=96, num_items=3670, num_classes=5, path="flowers.zip")


@pytest.mark.parametrize(
    ("data", "hardware", "recipe", "overrides"),
    [
        (FLOWERS, LAPTOP, "photos-64", ()),
        (FLOWERS._replace(side=64, smallest=64), LAPTOP, "photos-64", ()),
        (FLOWERS._replace(side=63, smallest=63), LAPTOP, "photos-48", ()),
        (FLOWERS._replace(side=32, smallest=32), LAPTOP, "photos-32", ()),
        (FLOWERS._replace(side=20, smallest=20), LAPTOP, "photos-32", ("data.size=20",)),
        (FLOWERS, ONE_CORE, "photos-48", ()),
        (FLOWERS, GPU, "photos-64", ("num_images=1150000",)),
        (FLOWERS, Hardware(cores=1, gpu=True), "photos-64", ("num_images=1150000",)),
        (FLOWERS._replace(smallest=40), LAPTOP, "photos-64", ("data.upscale=true",)),
        (FLOWERS._replace(smallest=None), LAPTOP, "photos-64", ("data.upscale=true",)),
        (FLOWERS._replace(grey=True), LAPTOP, "photos-64", ("data.channels=1",)),
        (FLOWERS._replace(side=40, requested=True), LAPTOP, "photos-32", ("data.size=40",)),
        (FLOWERS._replace(side=128, requested=True, smallest=128), LAPTOP, "photos-64", ("data.size=128",)),
        (FLOWERS._replace(num_items=999), LAPTOP, "photos-64", ("random_flip=false", "augment=document")),
        (
            DataSummary("idx", side=28, smallest=28, grey=True, num_items=60_000, num_classes=10),
            LAPTOP,
            "flow-mnist",
            (),
        ),
        (
            DataSummary("idx", side=28, smallest=28, grey=True, num_items=60_000, path="data/Fashion-MNIST"),
            LAPTOP,
            "flow-fashion",
            (),
        ),
        (DataSummary("digits", side=8, smallest=8, grey=True, num_items=1797), LAPTOP, "ddpm-digits", ()),
        (DataSummary("rings", points=True, num_items=10_000), LAPTOP, "flow-swissroll", ()),
    ],
)
def test_a_summary_of_the_data_gives_a_recipe(
    data: DataSummary, hardware: Hardware, recipe: str, overrides: tuple[str, ...]
) -> None:
    proposal = propose(data, hardware)
    assert (proposal.recipe, proposal.overrides) == (recipe, overrides)
    assert proposal.recipe in RECIPES and proposal.reasons
    apply_overrides(get_recipe(recipe), overrides)  # nothing that the recipe does not know


def test_the_reason_names_what_was_found() -> None:
    message = " ".join(propose(FLOWERS, LAPTOP).reasons)
    for fact in ("3,670", "colour", "96", "5 classes"):
        assert fact in message


@pytest.mark.parametrize(
    ("recipe", "overrides", "hardware", "expected"),
    [
        ("photos-64", [], LAPTOP, "about an hour on two cores"),
        ("photos-64", ["seed=1", "optimizer.learning_rate=1e-3"], LAPTOP, "about an hour on two cores"),
        ("photos-64", ["num_images=1000"], LAPTOP, "less than a minute on two cores"),
        ("photos-64", ["num_images=40000"], LAPTOP, "about 20 minutes on two cores"),
        ("photos-64", ["num_images=345000"], LAPTOP, "about 3 hours on two cores"),
        ("photos-64", ["data.size=128"], LAPTOP, "about 4 hours on two cores"),  # four times the pixels
        ("photos-64", ["data.size=128", "num_images=11500"], LAPTOP, "about 25 minutes on two cores"),
        ("photos-64", ["data.size=32x64"], LAPTOP, "about 30 minutes on two cores"),
        ("photos-48", [], ONE_CORE, "about 2 hours on one core"),
        ("photos-48", [], Hardware(cores=8), "about an hour on two cores, less on these 8"),
        ("photos-64", ["num_images=1150000"], GPU, "on a GPU it sees 10 times the images of an hour on two cores"),
        ("photos-64", ["num_images=1150"], GPU, ""),
        (
            "photos-64",
            ["batch_images=8"],
            LAPTOP,
            "--dry-run measures the duration with another batch_images",
        ),
        ("flow-mnist", ["system.network.channels=8"], LAPTOP, "with another system.network.channels"),
        ("flow-mnist", [], LAPTOP, "about 10 minutes on two cores"),
        ("flow-mnist", ["num_images=28000"], LAPTOP, "about a minute on two cores"),
        ("flow-swissroll", [], LAPTOP, ""),
    ],
)
def test_how_long_follows_what_the_user_reports(
    recipe: str, overrides: list[str], hardware: Hardware, expected: str
) -> None:
    started = get_recipe(recipe)
    message = estimate_duration(started, apply_overrides(started, overrides), 28, hardware)
    assert expected in message and bool(expected) is bool(message)


def test_the_user_has_the_last_word() -> None:
    proposal = propose(FLOWERS._replace(num_items=100, smallest=20), LAPTOP)
    assert apply_proposal(proposal, ["augment=flip", "seed=1"]) == ["data.upscale=true", "augment=flip", "seed=1"]
    assert apply_proposal(proposal, ["data.upscale=false"]) == [
        *("random_flip=false", "augment=document"),
        "data.upscale=false",
    ]
    for flip in ("random_flip=true", "random_flip=false"):  # mirrored as is said, and augmented all the same
        assert apply_proposal(proposal, [flip]) == ["data.upscale=true", "augment=document", "augment.flip=0", flip]
    detail = "augment.rotate=0"
    assert apply_proposal(proposal, [detail])[1:] == ["random_flip=false", "augment=document", detail]


@pytest.mark.parametrize(
    ("message", "random_flip", "flip"),
    [
        ("augment=document", False, 0.5),
        ("augment=flip", False, 0.5),
        ("augment.flip=0.25", False, 0.25),
        ("augment=none", True, 0),
        ("augment.rotate=0.2", True, 0),
    ],
)
def test_an_augmentation_that_mirrors_takes_the_place_of_the_recipes_own_flip(
    message: str, random_flip: bool, flip: float
) -> None:
    config = apply_overrides(get_recipe("photos-32"), [message])
    assert config.random_flip is random_flip and config.augment.flip == flip
    with pytest.raises(UsageError, match="both flip"):  # what the user says twice stays refused
        apply_overrides(get_recipe("photos-32"), ["augment=flip", "random_flip=true"])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve colour images of two classes, one of them small."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for index in range(12):
        place = folder / ("cats" if index % 2 else "dogs")
        place.mkdir(exist_ok=True)
        side = 30 if index == 3 else 50
        Image.fromarray(rng.integers(0, 256, (side, 70, 3), dtype=np.uint8)).save(place / f"{index:02d}.png")
    return folder


def test_summary_of_a_folder(photos: Path) -> None:
    found = data_facts(source_config_for(str(photos)))
    assert found == DataSummary(
        "folder", side=50, smallest=30, num_items=12, num_classes=2, path=str(photos), as_files=True
    )
    cats = source_config_for(str(photos)).model_copy(update={"classes": ("cats",), "size": 24, "channels": 1})
    assert data_facts(cats) == found._replace(side=24, requested=True, grey=True, num_items=6, num_classes=1)


def test_a_file_that_is_no_image_is_not_counted_as_one(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "some")
    (tmp_path / "some" / "cats" / "99.png").write_bytes(b"no image")
    found = data_facts(source_config_for(str(tmp_path / "some")))
    assert (found.num_items, found.unreadable) == (13, 1)
    assert propose(found, LAPTOP).reasons[0].startswith("12 files of colour images")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ([], "augment=document"),
        (["random_flip=true"], "augment=document"),
        (["augment=none"], "augment"),
        (["data.upscale=true"], "are enlarged"),
        (["data.upscale=false"], "are enlarged"),
    ],
)
def test_a_reason_falls_with_what_it_is_for(
    message: list[str], expected: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = message in ([], ["random_flip=true"], ["data.upscale=true"])
    configure(None, message, str(photos), None, False)
    first = capsys.readouterr().out.partition("the same as")[0]
    assert (expected in first) is kept


def test_images_of_next_to_no_pixels_are_enlarged_to_what_can_be_trained() -> None:
    proposal = propose(FLOWERS._replace(side=1, smallest=1), LAPTOP)
    assert proposal.overrides == ("data.size=8", "data.upscale=true")
    assert "1 pixel across" in proposal.reasons[0]


def test_summary_of_arrays_and_of_points() -> None:
    assert data_facts(source_config_for("digits")) == DataSummary(
        "digits", side=8, smallest=8, grey=True, num_items=1797, num_classes=10
    )
    assert data_facts(source_config_for("swissroll")).points


def test_data_alone_is_enough(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(None, ["num_images=32"], str(photos), None, False)
    message = " ".join(capsys.readouterr().out.split())
    assert "photos-48 fits: 12 files of colour images, 50 pixels across in 2 classes" in message
    assert "the same as: undiffuse train photos-48 --data" in message and message.endswith(
        "augment=document num_images=32"
    )
    assert "less than a minute on" in message and "hour" not in message
    assert config.recipe == "photos-48" and config.num_images == 32
    assert config.augment.name == "document" and not config.random_flip
    assert config.data.size == 48 and config.data.upscale  # type: ignore[attr-defined]


@pytest.mark.parametrize(("classes", "expected"), [("", ("cats", "dogs")), ("data.labels=none", ())])
def test_classes_are_reported_where_there_are_any_and_a_resume_agrees(
    photos: Path, tmp_path: Path, classes: str, expected: tuple[str, ...]
) -> None:
    smaller = ["num_images=2", "batch_images=2", "system.network.channels=8", "data.size=16", "preview_every_images=0"]
    config = configure("photos-48", [*smaller, *filter(None, [classes])], str(photos), None, False)
    assert config.system.class_conditional == "auto"  # type: ignore[attr-defined]
    config = config.model_copy(update={"data": config.data.model_copy(update={"upscale": True})})
    trainer = Trainer(config, *split_data(config), tmp_path / "run")
    assert trainer.run()
    written = trainer.config.system
    assert trainer.objective.model.class_names == expected
    assert written.class_conditional is bool(expected)  # type: ignore[attr-defined]
    assert (written.sampling.guidance == 1) is (not expected)  # type: ignore[attr-defined]
    check_folder(config, tmp_path / "run", resume=True)  # the recipe's "auto" is what the run settled on
    assert torch.isfinite(next(trainer.objective.model.parameters())).all()


def test_data_in_the_place_of_a_recipe(photos: Path) -> None:
    with pytest.raises(UsageError, match=r"is data and no recipe; .* undiffuse train --data "):
        configure(str(photos), [], None, None, False)


def test_neither_recipe_nor_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 2
    assert "--data FOLDER" in capsys.readouterr().err


def test_the_recipes_see_what_an_hour_holds() -> None:
    for size, images in IMAGES_PER_HOUR.items():
        assert get_recipe(f"photos-{size}").num_images == images
