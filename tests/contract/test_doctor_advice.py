"""What the doctor advises for a folder is taken by a training on that folder, and says what is so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import split_data
from undiffuse.data import source_config_for
from undiffuse.diagnostics import DATA_CHECKS, Finding, examine
from undiffuse.diagnostics.data_context import DataContext
from undiffuse.diagnostics.memorisation import memorisation
from undiffuse.training.trainer import Trainer

_TINY = ("num_images=2", "batch_images=2", "system.network.channels=8")


def folder_of(root: Path, sides: tuple[int, ...]) -> Path:
    """Images of these sides in turn, of two classes, one without a sound end."""
    rng = np.random.default_rng(0)
    for number in range(24):
        side = sides[number % len(sides)]
        place = root / ("cats" if number % 2 else "dogs") / f"{number:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side + 2, 3), dtype=np.uint8)).save(place)
    place.write_bytes(place.read_bytes()[:-40])
    return root


def findings(folder: Path) -> dict[str, Finding]:
    found = examine(DATA_CHECKS, DataContext(str(folder), source_config_for(str(folder)))).findings
    return {finding.title: finding for finding in found}


@pytest.mark.parametrize(
    ("sides", "advice"), [((20, 40), "data.size=16"), ((8, 64), "data.size=8"), ((70, 64), "data.size=64")]
)
def test_the_size_that_all_reach_can_be_trained(sides: tuple[int, ...], advice: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mixed", sides)
    found = findings(folder)
    few, broken, sizes = (found[title] for title in ("very few images", "broken files", "images of different sizes"))
    assert f"all images reach {advice};" in sizes.advice
    assert "augment=document" in few.advice and "augment.flip=0" in few.advice and "random_flip" not in few.advice
    assert "data.on_error=skip" in broken.advice
    message = [advice, "augment=document", "augment.flip=0", "data.on_error=skip"]
    config = configure(None, [*message, *_TINY], str(folder), None, False)
    trainer = Trainer(config, *split_data(config), tmp_path / "run")
    trainer.trial_micro_batch(2)  # the network has room for its levels
    trainer.loader.close()


def test_no_size_is_advised_that_nothing_can_be_trained_at(tmp_path: Path) -> None:
    sizes = findings(folder_of(tmp_path / "mixed", (4, 20)))["images of different sizes"]
    assert "data.size" not in sizes.advice and sizes.advice.startswith("remove the small ones")


def test_what_is_one_is_reported_as_one(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mixed", (20,))
    Image.new("RGB", (12, 12), (1, 200, 3)).save(folder / "cats" / "small.png")
    assert "1 image is enlarged and so blurred" in findings(folder)["images of different sizes"].evidence


@pytest.mark.parametrize(
    ("held_out", "reported"),
    [
        (0, "because none were held out"),
        (1, "because 1 held out is too few for a scale"),
        (7, "because 7 held out are too few for a scale"),
        (10, "99 % of held-out images"),
    ],
)
def test_copying_reports_what_stands_in_for_held_out_images(held_out: int, reported: str) -> None:
    generator, sizes = torch.Generator().manual_seed(0), {False: 80, True: held_out}

    def real(count: int, held_out: bool = False) -> torch.Tensor:
        return torch.randint(0, 256, (sizes[held_out], 3, 16, 16), generator=generator, dtype=torch.uint8)

    named = SimpleNamespace(item_name=str)
    subject = SimpleNamespace(check_images=lambda: None, real=real, seed=0, data=(named,), samples=real(80))
    (finding,) = memorisation(subject)  # type: ignore[arg-type]
    assert reported in finding.evidence
